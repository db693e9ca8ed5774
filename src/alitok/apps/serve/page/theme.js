// Light, dark or system theme. A classic script in the head, so that the page never flashes in the wrong colors.
"use strict";
{
  const STORAGE_KEY = "alitok-theme";

  // If the browser blocks storage, the page follows the system.
  const stored = () => {
    try {
      return localStorage.getItem(STORAGE_KEY) ?? "system";
    } catch {
      return "system";
    }
  };

  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };

  show(stored());
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = stored();
    choice.addEventListener("change", () => {
      show(choice.value);
      try {
        localStorage.setItem(STORAGE_KEY, choice.value);
      } catch {
        // Valid for this visit.
      }
    });
  });
}
