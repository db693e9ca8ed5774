// Round numbers for an axis, and numbers as short text.

// About `wanted` round numbers from `low` to `high`, both inside the axis.
export function ticks(low, high, wanted = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}

// Powers of ten, with 2 and 5 between them where there are few.
export function logTicks(low, high) {
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) powers.push(power);
  const factors = powers.length > 3 ? [1] : [1, 2, 5];
  const all = powers.flatMap((power) => factors.map((factor) => Number((factor * 10 ** power).toPrecision(3))));
  return all.filter((value) => value >= low && value <= high);
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 && size < 1e15) return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
  if (size < 1e-3 || size >= 1e15) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}
