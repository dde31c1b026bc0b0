// Applies the chosen colours before anything is drawn. It is not a module, since modules run later.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("opsqueue-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Without local storage the colours are those of the system.
  }
})();
