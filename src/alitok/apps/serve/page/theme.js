// Light, dark, or as the system has it. A plain script in the head, so that no page is first shown in the wrong colours.
"use strict";
{
  const KEPT = "alitok-theme";

  // A browser may refuse storage altogether; the page then follows the system.
  const kept = () => {
    try {
      return localStorage.getItem(KEPT) ?? "system";
    } catch {
      return "system";
    }
  };

  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };

  show(kept());
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = kept();
    choice.addEventListener("change", () => {
      show(choice.value);
      try {
        localStorage.setItem(KEPT, choice.value);
      } catch {
        // It holds for this visit.
      }
    });
  });
}
