// Plot of the guidance scale over the codes of an image.

import { svg } from "./dom.js";
import { short, ticks } from "./scale.js";

const WIDTH = 320;
const HEIGHT = 150;
const BOX = { left: 48, right: 10, top: 12, bottom: 36 };

// The scale at a fraction of the sequence: from 1 to g, except for the constant schedule.
function scaleAt(fraction, { guidance_scale: scale, guidance_power: power, guidance_schedule: schedule }) {
  const bend = { constant: 1, linear: fraction, cosine: (1 - Math.cos(Math.PI * fraction ** power)) / 2 }[schedule];
  return 1 + (scale - 1) * bend;
}

// Guidance applies from `start` to `stop`, fractions of the sequence; elsewhere the scale is 1.
export function plotSchedule(place, settings, { codes, start = 0, stop = 1 }) {
  // A scale of 0 means no guidance, as 1 does.
  const guidance = settings.guidance_scale === 0 ? { ...settings, guidance_scale: 1 } : settings;
  const values = Array.from({ length: codes }, (_, at) =>
    at / codes >= start && at / codes < stop ? scaleAt(at / codes, guidance) : 1,
  );
  const low = Math.min(1, guidance.guidance_scale);
  const high = Math.max(guidance.guidance_scale, low + 1);
  const x = (at) => BOX.left + (at / codes) * (WIDTH - BOX.left - BOX.right);
  const y = (value) => HEIGHT - BOX.bottom - ((value - low) / (high - low)) * (HEIGHT - BOX.top - BOX.bottom);
  // One step per code.
  const line = values.map((value, at) => `${at ? "V" : `M${x(0)} `}${y(value).toFixed(2)}H${x(at + 1).toFixed(2)}`).join("");
  // Labels: both ends exactly, and round numbers between them where there is room.
  const apart = (high - low) * 0.15;
  const between = ticks(low, high, 4).filter((value) => value - low > apart && high - value > apart);
  const lines = [low, ...between, high].flatMap((value) => [
    svg("line", { class: "rule", x1: BOX.left, x2: WIDTH - BOX.right, y1: y(value), y2: y(value) }),
    svg("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
  ]);
  const numbers = ticks(0, codes).map((at) =>
    svg("text", { x: x(at), y: HEIGHT - BOX.bottom + 15, "text-anchor": "middle" }, String(at)),
  );
  place.replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "plot schedule", "aria-label": describe(values, guidance) },
      ...lines,
      ...numbers,
      svg("path", { class: "area", d: `${line}V${y(low)}H${x(0)}Z` }),
      svg("path", { class: "curve", d: line }),
      svg("text", { x: (BOX.left + WIDTH - BOX.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, `code (of ${codes})`),
      svg("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(10 ${(HEIGHT - BOX.bottom + BOX.top) / 2}) rotate(-90)` }, "guidance scale"),
    ),
  );
}

function describe(values, { guidance_scale: scale, guidance_schedule: schedule }) {
  if (scale === 1) return "No guidance.";
  const [first, middle, last] = [0, values.length >> 1, values.length - 1].map((at) => short(Number(values[at].toPrecision(3))));
  return `Guidance, ${schedule}: ${first} at the first code, ${middle} in the middle, ${last} at the last.`;
}
