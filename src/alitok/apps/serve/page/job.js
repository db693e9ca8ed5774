// Runs one request at a time: shows its rows and progress, stops it, reports errors.

import { ServiceError, streamImages } from "./api.js";
import { createBatch } from "./batch.js";
import { announce, holdsFocus, make, notice, plural, reveal } from "./dom.js";
import { SettingsError } from "./settings.js";

// `buttons`: {start, stop}.
export function createJob({ model, buttons, progress, gallery, actions }) {
  const text = make("p", { class: "small faint" });
  const bar = make("progress", { "aria-label": "Rows generated" });
  const status = make("div", { class: "status", hidden: true }, bar, text);
  const problem = make("div");
  progress.append(status, problem);
  let running = null;

  // A disabled button loses the focus, so it moves to the one that takes its place.
  function busy(on) {
    const [off, next] = on ? [buttons.start, buttons.stop] : [buttons.stop, buttons.start];
    const held = document.activeElement === off;
    next.disabled = false;
    if (held) next.focus();
    off.disabled = true;
    status.hidden = !on;
    gallery.setAttribute("aria-busy", String(on));
  }

  buttons.stop.addEventListener("click", () => running?.abort());

  // `read` returns the settings, and `readFrom` {request, canvas, height, rows} of the image to complete, or null; they
  // are called here so that their errors are reported in one place.
  async function start(read, readFrom) {
    if (running) return notice(problem, "Images are being generated. Stop, or wait until they are finished.");
    const held = holdsFocus(problem);
    notice(problem, "");
    let settings;
    let from;
    try {
      settings = read();
      from = readFrom();
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      notice(problem, error.message);
      reveal(progress);
      error.field?.focus();
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
    text.textContent = "Waiting for the first row …";
    let rows = 0;
    let finished = 0;
    let total = 1;
    let announced = 0;

    const listeners = {
      start(event) {
        batch.start(event);
        total = event.images.length * event.rows;
        bar.max = total;
        announce(`Generating ${plural(event.images.length, "image")}.`);
      },
      async row(event) {
        await batch.row(event);
        rows += 1;
        bar.value = rows;
        text.textContent = `${rows} of ${total} rows`;
        // Quarters only: every row would be too much to read out.
        const quarter = Math.floor((rows / total) * 4);
        if (quarter > announced && quarter < 4) announce(["", "A quarter is", "Half is", "Three quarters are"][quarter] + " done.");
        announced = Math.max(announced, quarter);
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
      else if (failure instanceof ServiceError) notice(problem, failure.message, { label: "Try again", run: () => start(() => settings, () => from) });
      else throw failure;
      if (!batch.total) batch.node.remove();
    } finally {
      batch.end();
      running = null;
      busy(false);
    }
  }

  busy(false);
  return { start };
}
