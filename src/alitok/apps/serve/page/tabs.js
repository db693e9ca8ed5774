// Tabs: arrows, Home and End move between them; the URL's fragment is the open one.

import { byId } from "./dom.js";

export function createTabs(list, whenOpened) {
  const tabs = () => [...list.querySelectorAll('[role="tab"]')].filter((tab) => !tab.hidden);

  function open(tab, focus = false) {
    for (const other of list.querySelectorAll('[role="tab"]')) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    const name = nameOf(tab);
    history.replaceState(null, "", `#${name}`);
    whenOpened(name);
  }

  const nameOf = (tab) => tab.id.replace("tab-", "");

  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) open(tab);
  });

  list.addEventListener("keydown", (event) => {
    const all = tabs();
    const at = all.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    open(all[(next + all.length) % all.length], true);
  });

  const requested = tabs().find((tab) => `#${nameOf(tab)}` === location.hash);
  open(requested ?? tabs()[0]);
  return { open: (name) => open(byId(`tab-${name}`), true) };
}
