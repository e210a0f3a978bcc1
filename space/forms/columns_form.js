// Sends the values of the forms inside this component: when one is submitted, and when a form
// marked data-live changes. `element`, `trigger` and `watch` are given by Gradio.
const send = (form, action) => {
  clearTimeout(form.timer);
  trigger("submit", { ...Object.fromEntries(new FormData(form)), action });
};
const showRoles = (selects) => element.querySelectorAll("[data-roles]").forEach((shown) => {
  const parts = selects.map((select, i) => {
    const name = document.createElement("b");
    name.textContent = select.closest("th").querySelector("span").textContent;
    return [i ? ", " : "", name, shown.dataset.roles + select.selectedOptions[0].text];
  });
  shown.replaceChildren(...parts.flat());
});
element.addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.target, event.submitter?.value ?? "");
});
element.addEventListener("change", (event) => {
  const { form, name, value } = event.target;
  if (!form?.matches("[data-live]")) return;
  if (["output", "instruction", "messages"].includes(value))  // belongs to one column
    for (const other of form.querySelectorAll("select[name^=role-]"))
      if (other !== event.target && other.value === value) other.value = "";
  showRoles([...form.querySelectorAll("select[name^=role-]")].filter((select) => select.value));
  clearTimeout(form.timer);
  form.timer = setTimeout(send, 300, form, "change");
});
// a new form starts with its own values, not with those that were chosen in the earlier one
watch("value", () => element.querySelectorAll("form").forEach((form) => form.reset()));
