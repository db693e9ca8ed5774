// Axis ticks and short number formatting.

// Round numbers from `low` to `high`, with the step whose count is nearest to `wanted`.
export function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const power = 10 ** Math.floor(Math.log10((high - low) / wanted));
  const choices = [1, 2, 5, 10].map((factor) => {
    const step = factor * power;
    const first = Math.ceil(low / step - 1e-9);
    return { step, first, count: Math.floor(high / step + 1e-9) - first + 1 };
  });
  const far = ({ count }) => Math.abs(count - wanted);
  const { step, first, count } = choices.reduce((best, next) => (far(next) < far(best) ? next : best));
  return Array.from({ length: count }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}

// Powers of ten, with 2 and 5 between them if there are few.
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
  if (size < 1e-3 || size >= 1e15) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}
