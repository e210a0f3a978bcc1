() => {
  // Gradio replaces the content of these boxes; screen readers should announce it
  for (const id of ["lm-status", "lm-work", "lm-bank"]) {
    const box = document.getElementById(id);
    if (box) { box.setAttribute("role", "status"); box.setAttribute("aria-live", "polite"); }
  }
}
