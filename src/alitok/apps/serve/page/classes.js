// A picker for several classes: a searchable combobox, and the chosen ones as chips.
// Arrows move in the list, Enter adds or removes, Escape closes, Backspace in the empty field removes the last.

import { announce, make, plural } from "./dom.js";

const SHOWN = 60; // list entries at a time; beyond that typing is faster than scrolling

// Best first: exact number or name, prefix of the name, prefix of a word, anywhere.
function findClasses(names, typed) {
  const wanted = typed.trim().toLowerCase();
  if (!wanted) return names.map((_, label) => label);
  const ranked = [[], [], [], []];
  names.forEach((name, label) => {
    const at = name.toLowerCase().indexOf(wanted);
    if (String(label) === wanted || (at === 0 && name.length === wanted.length)) ranked[0].push(label);
    else if (at === 0) ranked[1].push(label);
    else if (at > 0 && /[\s,(-]/.test(name[at - 1])) ranked[2].push(label);
    else if (at > 0) ranked[3].push(label);
  });
  return ranked.flat();
}

export function createClassPicker({ names, id, chosen = [] }) {
  const picked = [...chosen];
  let found = [];
  let active = -1;

  const chips = make("ul", { class: "chips", "aria-label": "Chosen classes" });
  const list = make("ul", { role: "listbox", id: `${id}-list`, hidden: true, "aria-label": "Classes", "aria-multiselectable": "true" });
  const more = make("p", { class: "more faint small", id: `${id}-more`, hidden: true });
  const input = make("input", {
    id,
    type: "text",
    role: "combobox",
    autocomplete: "off",
    spellcheck: false,
    placeholder: `Search ${plural(names.length, "class", "classes")}`,
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": list.id,
    "aria-describedby": more.id,
  });
  const popup = make("div", { class: "popup" }, list, more);
  const node = make(
    "div",
    { class: "field classes" },
    make("label", { htmlFor: id }, "Classes"),
    chips,
    make("div", { class: "combo" }, input, popup),
  );

  function showChips() {
    chips.replaceChildren(
      ...picked.map((label) =>
        make(
          "li",
          {},
          names[label],
          make("button", { type: "button", "aria-label": `Remove ${names[label]}`, on: { click: () => remove(label, true) } }, "×"),
        ),
      ),
    );
    chips.hidden = picked.length === 0;
  }

  function open() {
    found = findClasses(names, input.value);
    list.replaceChildren(
      ...found.slice(0, SHOWN).map((label, at) =>
        make("li", { role: "option", id: `${id}-${at}`, "aria-selected": String(picked.includes(label)) }, names[label]),
      ),
    );
    const left = found.length - SHOWN;
    more.textContent = found.length === 0 ? "No matching class." : `${plural(left, "more class", "more classes")}; keep typing to find them.`;
    more.hidden = found.length > 0 && left <= 0;
    list.hidden = found.length === 0;
    popup.classList.add("open");
    input.setAttribute("aria-expanded", String(found.length > 0));
    point(input.value.trim() && found.length ? 0 : -1);
  }

  function close() {
    popup.classList.remove("open");
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    point(-1);
  }

  function point(at) {
    list.children[active]?.classList.remove("active");
    active = at;
    const entry = list.children[at];
    if (!entry) return input.removeAttribute("aria-activedescendant");
    entry.classList.add("active");
    entry.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", entry.id);
  }

  function toggle(label) {
    if (picked.includes(label)) return remove(label);
    picked.push(label);
    input.value = "";
    showChips();
    announce(`${names[label]} chosen. ${plural(picked.length, "class", "classes")}.`);
  }

  function remove(label, focus = false) {
    picked.splice(picked.indexOf(label), 1);
    showChips();
    announce(`${names[label]} removed. ${plural(picked.length, "class", "classes")}.`);
    if (focus) input.focus();
  }

  input.addEventListener("input", open);
  input.addEventListener("click", open);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const shut = !popup.classList.contains("open");
    const entries = list.children.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (shut) open();
      if (list.children.length) point(active < 0 || shut ? (step > 0 ? 0 : list.children.length - 1) : (active + step + entries) % entries);
    } else if (event.key === "Enter" && !shut) {
      event.preventDefault(); // an open list handles Enter; otherwise it submits the form
      if (active >= 0) {
        toggle(found[active]);
        open();
      }
    } else if (event.key === "Escape" && !shut) {
      event.preventDefault();
      close();
    } else if (event.key === "Backspace" && !input.value && picked.length) {
      remove(picked.at(-1));
      if (!shut) open();
    }
  });

  // Keep the focus in the field: its `blur` would close the list before the click.
  popup.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const entry = event.target.closest('[role="option"]');
    if (!entry) return;
    toggle(found[[...list.children].indexOf(entry)]);
    close();
  });

  showChips();
  return {
    node,
    input,
    read: () => [...picked],
    put(labels) {
      picked.splice(0, picked.length, ...labels);
      showChips();
    },
  };
}
