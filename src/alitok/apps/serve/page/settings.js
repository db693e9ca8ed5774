// The settings form: classes, count, seed, guidance and filters; it can be read and restored.

import { createClassPicker } from "./classes.js";
import { make, plural } from "./dom.js";
import { plotSchedule } from "./schedule.js";
import { short } from "./scale.js";

const LARGEST_SEED = 2 ** 31 - 1; // of the dice; a typed seed may be any exact integer

// Invalid settings, with the field to change.
export class SettingsError extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

export const anySeed = () => Math.floor(Math.random() * LARGEST_SEED);

export function createSettings(model, { prefix, chosen = [], button }) {
  const defaults = model.sampling;
  const id = (name) => `${prefix}-${name}`;
  const classes = createClassPicker({ names: model.classes, id: id("classes"), chosen });

  const count = make("input", { id: id("count"), type: "number", min: 1, max: model.limits.max_images, value: 1, inputMode: "numeric" });
  const seed = make("input", { id: id("seed"), type: "number", min: 0, step: 1, placeholder: "random", inputMode: "numeric" });
  const dice = make("button", { type: "button", class: "dice", title: "Random seed", "aria-label": "Random seed", on: { click: () => (seed.value = anySeed()) } }, "⚄");

  const schedule = make(
    "select",
    { id: id("guidance_schedule") },
    ...[["cosine", "cosine"], ["linear", "linear"], ["constant", "constant"]].map(([value, words]) => make("option", { value }, words)),
  );
  schedule.value = defaults.guidance_schedule ?? "cosine";
  const scale = slider({ id: id("guidance_scale"), label: "Guidance scale", min: 0, max: Math.max(20, defaults.guidance_scale), step: 0.1, value: defaults.guidance_scale });
  const power = slider({ id: id("guidance_power"), label: "Power", min: 0.1, max: Math.max(4, defaults.guidance_power), step: 0.05, value: defaults.guidance_power });
  const temperature = slider({ id: id("temperature"), label: "Temperature", min: 0, max: Math.max(2, defaults.temperature), step: 0.05, value: defaults.temperature });
  const topP = slider({ id: id("top_p"), label: "Top-p", min: 0.05, max: 1, step: 0.01, value: defaults.top_p });
  const maxTopK = Math.max(model.codebook_size, defaults.top_k);
  const topK = make("input", { id: id("top_k"), type: "number", min: 0, max: maxTopK, step: 1, value: defaults.top_k, inputMode: "numeric" });
  const format = make("select", { id: id("format") }, ...["png", "webp", "jpeg"].map((name) => make("option", { value: name }, name)));
  const plot = make("div", { class: "plot-place" });

  function readSampling() {
    return {
      guidance_scale: scale.read(),
      guidance_power: power.read(),
      guidance_schedule: schedule.value,
      temperature: temperature.read(),
      top_p: topP.read(),
    };
  }

  function showPlot() {
    power.node.hidden = schedule.value !== "cosine";
    const { guidance_start: start, guidance_stop: stop } = defaults;
    plotSchedule(plot, readSampling(), { codes: model.codes, start, stop });
  }

  const guidance = make(
    "fieldset",
    { on: { input: showPlot, change: showPlot } },
    make("legend", {}, "Guidance"),
    scale.node,
    field("Schedule", schedule),
    power.node,
    plot,
  );
  const filters = make(
    "details",
    {},
    make("summary", {}, "Sampling and file format"),
    temperature.node,
    field("Top-k (0 = all)", topK),
    topP.node,
    field("File format", format),
  );
  const node = make(
    "div",
    { class: "fields" },
    classes.node,
    make(
      "div",
      { class: "two-fields" },
      field("Per class", count),
      make("div", { class: "field" }, make("label", { htmlFor: seed.id }, "Seed"), make("div", { class: "joined" }, seed, dice)),
    ),
    button,
    guidance,
    filters,
  );
  showPlot();

  function whole(input, words, low, high) {
    const value = Number(input.value);
    if (input.value.trim() === "" || !Number.isInteger(value) || value < low || value > high) {
      throw new SettingsError(`${words} must be a whole number from ${low} to ${high}.`, input);
    }
    return value;
  }

  return {
    node,
    classes,
    // Throws a SettingsError; seed null = chosen by the service.
    read() {
      const labels = classes.read();
      const max = model.limits.max_images;
      if (!labels.length) throw new SettingsError("Choose at least one class.", classes.input);
      const each = whole(count, "Images per class", 1, max);
      if (each * labels.length > max) {
        const request = `${plural(labels.length, "class", "classes")} with ${plural(each, "image")} each make ${each * labels.length} images`;
        throw new SettingsError(`${request}; this service allows at most ${max} per request.`, count);
      }
      return {
        classes: labels,
        count: each,
        seed: seed.value.trim() === "" && !seed.validity.badInput ? null : whole(seed, "The seed", 0, Number.MAX_SAFE_INTEGER),
        ...readSampling(),
        top_k: whole(topK, "Top-k", 0, maxTopK),
        format: format.value,
      };
    },
    put(settings) {
      classes.put(settings.classes);
      count.value = settings.count;
      seed.value = settings.seed ?? "";
      schedule.value = settings.guidance_schedule;
      topK.value = settings.top_k;
      format.value = settings.format;
      for (const [part, value] of [[scale, settings.guidance_scale], [power, settings.guidance_power], [temperature, settings.temperature], [topP, settings.top_p]]) {
        part.put(value);
      }
      showPlot();
    },
  };
}

function field(label, input) {
  return make("div", { class: "field" }, make("label", { htmlFor: input.id }, label), input);
}

// The browser rounds a slider to its nearest step, so the exact value is stored until somebody moves the slider.
function slider({ id, label, min, max, step, value }) {
  const output = make("output", { htmlFor: id, "aria-live": "off" }); // the slider itself is read out
  const input = make("input", { id, type: "range", min, max, step, on: { input: () => take(Number(input.value)) } });
  let exact;

  function take(next) {
    exact = next;
    output.value = short(exact);
    input.setAttribute("aria-valuetext", output.value);
  }

  function put(next) {
    input.value = next;
    take(next);
  }

  put(value);
  const node = make("div", { class: "field slider" }, make("label", { htmlFor: id }, label), output, input);
  return { node, put, read: () => exact };
}
