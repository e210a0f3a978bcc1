() => {
  // What screen readers announce: plans, results and messages at once, progress every 5 seconds
  const PROGRESS_MS = 5000;
  const announcer = document.createElement("p");
  announcer.id = "lm-announcer";
  announcer.className = "lm-hidden";
  announcer.setAttribute("role", "status");
  document.body.append(announcer);
  let announced = "", announcedProgress = "", lastProgress = 0, lastFocused = null, focusedHeading = "";
  let linkShown = null, verdictUnseen = false;

  const announce = (text) => { announcer.textContent = text; };

  function announceChanges() {
    const now = [...document.querySelectorAll("[data-announce]")].map((e) => e.dataset.announce);
    const text = now.filter((part) => !announced.includes(part)).join(" ");
    announced = now;
    if (text) return announce(text);
    const progress = document.querySelector("[data-progress]")?.dataset.progress;
    if (!progress && announcer.textContent === announcedProgress) return announce("");
    if (progress && Date.now() - lastProgress >= PROGRESS_MS) {
      lastProgress = Date.now();
      announce(announcedProgress = progress);
    }
  }

  // A new result takes the focus; a control that disappears with the focus hands it on
  function moveFocus() {
    const heading = document.querySelector("[data-focus]");
    const key = heading?.dataset.focus ?? "";
    if (key && key !== focusedHeading) {
      heading.focus({ preventScroll: true });
      heading.scrollIntoView({ block: "start" });
    } else if (document.activeElement === document.body && lastFocused
      && (!lastFocused.isConnected || lastFocused.disabled || !lastFocused.checkVisibility())) {
      const next = ["#lm-cancel", "#lm-stop", "#lm-make", "#lm-dataset"]
        .map((s) => document.querySelector(s));
      next.find((e) => e && !e.disabled && e.checkVisibility())?.focus({ preventScroll: true });
    }
    focusedHeading = key || focusedHeading;
  }

  // The address is a link to share, and signing in returns to it
  function updateAddress() {
    const shown = document.querySelector("[data-link]");
    if (!shown || shown === linkShown) return;
    linkShown = shown;
    verdictUnseen = true;
    const { link, visit } = shown.dataset;
    window.lorametaVisit = visit;
    const dataset = new URLSearchParams(link).get("dataset");
    const query = dataset ? `?dataset=${encodeURIComponent(dataset).replace("%2F", "/")}` : "";
    history.replaceState(history.state, "", location.pathname + query);
    sessionStorage.setItem("lm-link", link);
    window.parent?.postMessage({ queryString: query }, "https://huggingface.co");
  }

  // What follows in this tab goes on, also if the browser discards it while it is hidden; a duplicate
  // of it, whose storage is a copy, starts anew
  function storeVisit({ type }) {
    if (type !== "pagehide" && !document.hidden) sessionStorage.removeItem("lm-visit");
    else if (window.lorametaVisit) {
      sessionStorage.setItem("lm-visit", window.lorametaVisit);
      const texts = [...typed].map((id) => [id, document.querySelector(`#${id} textarea`)?.value]);
      sessionStorage.setItem("lm-typed", JSON.stringify(Object.fromEntries(texts)));
    }
  }
  addEventListener("pagehide", storeVisit);
  document.addEventListener("visibilitychange", storeVisit);

  // Answers leave alone a field in which something was typed that was not sent yet
  const typed = window.lorametaTyped = new Set();
  document.addEventListener("input", ({ target }) => typed.add(target.closest("[id^=lm-]")?.id));
  document.addEventListener("click", ({ target }) => {
    const sent = target.closest("#lm-use-prompt") ? ["lm-instruction", "lm-template"]
      : target.closest("#lm-save-adapter, #lm-save-anyway") ? ["lm-repo_id", "lm-overwrite"] : [];
    sent.forEach((id) => typed.delete(id));
  });

  // Signing in returns to the same address
  document.addEventListener("click", ({ target }) => {
    const link = target.closest("a[href*='login/huggingface']");
    if (link) link.search = location.search;
  });

  // What was typed before this page is filled in once, if it goes on with the same visit
  window.lorametaFill = (names, filled, values) => {
    const { visit, texts } = window.lorametaResumed ?? {};
    window.lorametaResumed = null;
    return names.map((name, i) => {
      const id = `lm-${name}`, text = visit && visit === filled.visit ? texts[id] : undefined;
      if (text !== undefined) typed.add(id);
      return text ?? (name in filled && !typed.has(id) ? filled[name] : values[i]);
    });
  };

  // The verdict on a dataset comes into view, unless an adapter is there already
  function showVerdict() {
    const visible = (place) => document.querySelector(place)?.checkVisibility();
    if (!verdictUnseen || !visible("#lm-verdict .lm-verdict")) return;
    verdictUnseen = false;
    if (visible("[data-focus]")) return;
    // once the bar has its height
    setTimeout(() => document.querySelector("#lm-verdict")?.scrollIntoView({ block: "nearest" }), 300);
  }

  // Tables of the card scroll, which the keyboard can do where they have the focus
  function letTablesScroll() {
    for (const table of document.querySelectorAll("#lm-card table:not([tabindex])")) table.tabIndex = 0;
  }

  document.addEventListener("focusin", (event) => { lastFocused = event.target; });
  let scheduled = false;
  new MutationObserver(() => {
    if (scheduled) return;
    scheduled = true;
    setTimeout(() => {
      scheduled = false;
      announceChanges();
      moveFocus();
      updateAddress();
      showVerdict();
      letTablesScroll();
    }, 50);
  }).observe(document.body, {
    subtree: true, childList: true, characterData: true, attributes: true,
    attributeFilter: ["data-announce", "data-progress", "data-focus", "data-link", "class", "style", "disabled"],
  });
}
