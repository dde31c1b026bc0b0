// The colours that were chosen here, before anything is drawn: not a module, since those run later.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("opsqueue-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // A browser that keeps nothing: as the system has them.
  }
})();
