// Plot of one metric over training steps, with the value under the pointer or selected by the arrow keys.

import { make, svg } from "./dom.js";
import { logTicks, short, ticks } from "./scale.js";

const WIDTH = 400;
const HEIGHT = 220;
const BOX = { left: 52, right: 22, top: 12, bottom: 38 };
const LOG_FROM = 30; // ratio of largest to smallest value from which the axis is logarithmic
const MAX_POINTS = 1000; // of a line; a screen shows no more

export function createCurve(metric, all) {
  const points = all.filter(([, value]) => Number.isFinite(value));
  const title = metric.replaceAll("_", " ").replaceAll("/", ", ");
  if (!points.length) return make("figure", { class: "card" }, make("figcaption", {}, title), make("p", { class: "faint" }, "No values yet."));

  const steps = points.map(([step]) => step);
  const values = points.map(([, value]) => value);
  const [left, right] = [0, Math.max(steps.at(-1), 1)]; // each stage counts its steps from 0
  const least = values.reduce((a, b) => Math.min(a, b));
  const most = values.reduce((a, b) => Math.max(a, b));
  const log = least > 0 && most / least > LOG_FROM;
  const [low, high] = spread(least, most);
  const fraction = (value) => (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
  const x = (step) => BOX.left + ((step - left) / (right - left)) * (WIDTH - BOX.left - BOX.right);
  const y = (value) => HEIGHT - BOX.bottom - fraction(value) * (HEIGHT - BOX.top - BOX.bottom);

  const stride = Math.ceil(points.length / MAX_POINTS);
  const shown = points.filter((_, at) => at % stride === 0 || at === points.length - 1);
  const path = shown.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const dot = svg("circle", { class: "dot", r: 4, cx: x(steps.at(-1)), cy: y(values.at(-1)) });
  const readout = make("output", { class: "small faint" });
  const name = `${title}: ${short(values[0])} at step ${steps[0]}, ${short(values.at(-1))} at step ${steps.at(-1)}; between ${short(least)} and ${short(most)}`;
  const plot = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", tabindex: "0", "aria-label": name },
    ...(log ? logTicks(low, high) : ticks(low, high)).flatMap((value) => [
      svg("line", { class: "rule", x1: BOX.left, x2: WIDTH - BOX.right, y1: y(value), y2: y(value) }),
      svg("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    ]),
    ...ticks(left, right).map((step) => svg("text", { x: x(step), y: HEIGHT - BOX.bottom + 16, "text-anchor": "middle" }, short(step))),
    svg("text", { x: (BOX.left + WIDTH - BOX.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, log ? "step (log scale)" : "step"),
    svg("path", { class: "curve", d: path }),
    dot,
  );

  let at = points.length - 1;
  function point(next) {
    at = Math.min(Math.max(next, 0), points.length - 1);
    dot.setAttribute("cx", x(steps[at]));
    dot.setAttribute("cy", y(values[at]));
    readout.value = `${short(values[at])} at step ${steps[at]}`;
  }
  plot.addEventListener("pointermove", (event) => {
    const { left: edge, width } = plot.getBoundingClientRect();
    const step = left + (((event.clientX - edge) / width) * WIDTH - BOX.left) / (WIDTH - BOX.left - BOX.right) * (right - left);
    point(nearest(steps, step));
  });
  plot.addEventListener("pointerleave", () => point(points.length - 1));
  plot.addEventListener("keydown", (event) => {
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: points.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    point(next);
  });
  point(at);
  return make("figure", { class: "card" }, make("figcaption", {}, title, readout), plot);
}

// Room around a single value.
function spread(low, high) {
  return high > low ? [low, high] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
}

// Binary search; steps ascend.
export function nearest(steps, wanted) {
  let low = 0;
  let high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] < wanted) low = middle;
    else high = middle;
  }
  return wanted - steps[low] < steps[high] - wanted ? low : high;
}
