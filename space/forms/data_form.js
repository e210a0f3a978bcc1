// Step 1: search while typing, choose with mouse or keyboard, upload a file, open a shared link.
// `element`, `trigger` and `server` are given by Gradio.
const form = element.querySelector("form");
const input = element.querySelector("#lm-dataset");
const list = element.querySelector("#lm-matches");
const items = [...list.children];
const file = element.querySelector("#lm-file");
const uploading = element.querySelector("#lm-upload");
let requests = 0;
let searches = 0;
let active = -1;
let asked = "";  // the example that was clicked while there is an adapter that took training

function request(data) {
  requests++;
  asked = "";
  searches++;
  window.lorametaTyped?.clear();  // the fields that answers fill are those of another dataset now
  showMatches([]);
  element.querySelector(".lm-example").hidden = true;
  trigger("submit", data);
}

function requestDataset(name) {
  input.value = name;
  uploading.textContent = "";
  request({ dataset: name });
}

async function requestFile(chosen) {
  if (!chosen) return;
  if (chosen.size > form.dataset.mb * 1e6) {
    uploading.textContent = `${chosen.name} is larger than ${form.dataset.mb} MB.`;
    file.value = "";
    return;
  }
  const number = ++requests;
  input.value = "";
  uploading.textContent = `Uploading ${chosen.name} …`;
  const body = new FormData();
  body.append("files", chosen);
  // a refusal says why; Gradio's own `upload` would show it as it is sent
  const sent = fetch("gradio_api/upload", { method: "POST", body });
  const answer = await sent.then((response) => response.json()).catch(() => ({}));
  file.value = "";  // the same file can be chosen again
  if (number !== requests) return;  // something else was chosen meanwhile
  const [path] = Array.isArray(answer) ? answer : [];
  const failed = `${chosen.name} could not be uploaded. ${answer?.detail ?? ""}`;
  uploading.textContent = path ? chosen.name : failed;
  if (path) request({ file: path });
}

function showMatches(names) {
  items.forEach((item, i) => {
    item.hidden = i >= names.length;
    item.textContent = names[i] ?? "";
  });
  list.hidden = !names.length;
  input.setAttribute("aria-expanded", String(names.length > 0));
  highlight(-1);
}

function highlight(index) {
  active = index;
  items.forEach((item, i) => item.setAttribute("aria-selected", String(i === index)));
  if (index < 0) input.removeAttribute("aria-activedescendant");
  else input.setAttribute("aria-activedescendant", items[index].id);
}

input.addEventListener("input", async () => {
  const number = ++searches;
  await new Promise((resolve) => setTimeout(resolve, 150));
  if (number !== searches) return;
  const names = await server.search(input.value).catch(() => []);
  if (number === searches && document.activeElement === input) showMatches(names);
});
input.addEventListener("keydown", (event) => {
  const count = items.filter((item) => !item.hidden).length;
  if (event.key === "Escape") { searches++; showMatches([]); }
  if (!["ArrowDown", "ArrowUp"].includes(event.key) || !count) return;
  event.preventDefault();
  searches++;  // a late answer must not replace the list that one chooses from
  const step = event.key === "ArrowDown" ? 1 : -1;
  highlight(active < 0 && step < 0 ? count - 1 : (active + step + count) % count);
});
input.addEventListener("blur", () => { searches++; showMatches([]); });
list.addEventListener("mousedown", (event) => event.preventDefault());  // keeps the focus
list.addEventListener("click", (event) => {
  if (event.target.role === "option") requestDataset(event.target.textContent);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  requestDataset(active < 0 ? input.value.trim() : items[active].textContent);
});
element.addEventListener("click", (event) => {
  if (!event.target.dataset.dataset) return;
  const name = event.target.dataset.dataset;
  // no dialog: browsers show none in the frame of the Hub
  if (document.querySelector("[data-training]")?.checkVisibility() && asked !== name) {
    asked = name;
    uploading.textContent = "This replaces your adapter and its training. To go on, click the example again.";
    return;
  }
  if (name !== "example") return requestDataset(name);
  input.value = uploading.textContent = "";
  request({ example: true });
});
file.addEventListener("change", () => requestFile(file.files[0]));
form.addEventListener("dragover", (event) => event.preventDefault());
form.addEventListener("drop", (event) => {
  event.preventDefault();
  requestFile(event.dataTransfer.files[0]);
});

// a shared link names the dataset; after signing in, the session storage has the other choices, and
// the key with which the server finds what this tab had
let link = new URLSearchParams(location.search);
const stored = new URLSearchParams(sessionStorage.getItem("lm-link") ?? "");
const names = ["dataset", "config", "split", "columns", "instruction", "template"];  // that it may choose
const same = !names.slice(1).some((name) => link.get(name))  // else it was opened, not this tab's
  && (link.get("dataset") ?? "") === (stored.get("dataset") ?? "");
const resume = window.lorametaVisit = same ? sessionStorage.getItem("lm-visit") : null;
window.lorametaResumed = { visit: resume, texts: JSON.parse(sessionStorage.getItem("lm-typed") ?? "{}") };
sessionStorage.removeItem("lm-typed");
sessionStorage.removeItem("lm-visit");
if (same) link = stored;
if (link.get("dataset") || resume) {
  input.value = link.get("dataset") ?? "";
  const chosen = names.filter((name) => link.get(name)).map((name) => [name, link.get(name)]);
  request({ ...Object.fromEntries(chosen), linked: !same, resume });
}
