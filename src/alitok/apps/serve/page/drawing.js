// One drawing at a time: asks for it, shows its rows and its progress, stops it, says what went wrong.

import { ServiceError, streamImages } from "./api.js";
import { createBatch } from "./batch.js";
import { announce, holdsFocus, make, notice, plural, reveal } from "./dom.js";
import { SettingsError } from "./settings.js";

// `buttons`: {draw, stop}.
export function createDrawing({ model, buttons, progress, gallery, actions }) {
  const words = make("p", { class: "small faint" });
  const bar = make("progress", { "aria-label": "Rows drawn" });
  const status = make("div", { class: "status", hidden: true }, bar, words);
  const problem = make("div");
  progress.append(status, problem);
  let running = null;

  // A button that is disabled loses the focus, so it goes to the one that takes its place.
  function busy(on) {
    const [off, next] = on ? [buttons.draw, buttons.stop] : [buttons.stop, buttons.draw];
    const held = document.activeElement === off;
    next.disabled = false;
    if (held) next.focus();
    off.disabled = true;
    status.hidden = !on;
    gallery.setAttribute("aria-busy", String(on));
  }

  buttons.stop.addEventListener("click", () => running?.abort());

  // `read` gives the settings, and `readFrom` {request, canvas, height, rows} of the image from which the model goes on,
  // or null; they are called here so that what is wrong with them is said in one place.
  async function draw(read, readFrom) {
    if (running) return notice(problem, "A drawing is under way. Stop it, or wait until it is finished.");
    const held = holdsFocus(problem);
    notice(problem, "");
    let settings;
    let from;
    try {
      settings = read();
      from = readFrom();
    } catch (wrong) {
      if (!(wrong instanceof SettingsError)) throw wrong;
      notice(problem, wrong.message);
      reveal(progress);
      wrong.field?.focus();
      return;
    }

    running = new AbortController();
    busy(true);
    if (held) buttons.stop.focus();
    const batch = createBatch({ model, settings, from, actions });
    gallery.querySelector(".empty")?.remove();
    gallery.prepend(batch.node);
    reveal(progress);
    bar.removeAttribute("value");
    words.textContent = "Waiting for the first row …";
    let rows = 0;
    let finished = 0;
    let total = 1;
    let said = 0;

    const listeners = {
      start(event) {
        batch.start(event);
        total = event.images.length * event.rows;
        bar.max = total;
        announce(`Drawing ${plural(event.images.length, "image")}.`);
      },
      async row(event) {
        await batch.row(event);
        rows += 1;
        bar.value = rows;
        words.textContent = `${rows} of ${total} rows`;
        // A quarter at a time: every row would be a flood of words.
        const quarter = Math.floor((rows / total) * 4);
        if (quarter > said && quarter < 4) announce(["", "A quarter is", "Half is", "Three quarters are"][quarter] + " drawn.");
        said = Math.max(said, quarter);
      },
      image(event) {
        batch.image(event);
        finished += 1;
      },
    };

    try {
      await streamImages({ ...settings, completion: from?.request ?? null }, listeners, running.signal);
      announce(`Finished: ${plural(finished, "image")}.`);
    } catch (failure) {
      if (failure.name === "AbortError") announce("Stopped.");
      else if (failure instanceof ServiceError) notice(problem, failure.message, { label: "Try again", run: () => draw(() => settings, () => from) });
      else throw failure;
      if (!batch.total) batch.node.remove();
    } finally {
      batch.end();
      running = null;
      busy(false);
    }
  }

  busy(false);
  return { draw };
}
