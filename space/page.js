() => {
  // what changes on its own is read out; Gradio replaces the content, so the box itself is marked
  const live = (id, kind) => {
    const box = document.getElementById(id);
    if (box) { box.setAttribute("role", "status"); box.setAttribute("aria-live", kind); }
  };
  live("lm-status", "polite");
  live("lm-work", "polite");
  live("lm-bank", "polite");
}
