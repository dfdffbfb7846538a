// Random numbers that follow from a seed, half precision, and numbers as text.

/** Numbers in [0, 1) from a 32-bit seed (mulberry32). */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** f32 values in [-1, 1), which f16 holds exactly, so that both types have the same inputs. */
function values(count, random) {
  const all = new Float32Array(count);
  for (let i = 0; i < count; i += 1) { all[i] = (Math.floor(random() * 2048) - 1024) / 1024; }
  return all;
}

const float = new Float32Array(1), word = new Uint32Array(float.buffer);

/** Bits of an f16, for numbers that it holds exactly or that may be rounded down. */
function toHalf(value) {
  if (Number.isNaN(value)) { return 0x7e00; }
  float[0] = value;
  const bits = word[0];
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 127 + 15;
  const fraction = bits & 0x7fffff;
  if (exponent >= 31) { return sign | 0x7c00; }
  if (exponent > 0) { return sign | (exponent << 10) | (fraction >>> 13); }
  if (exponent < -10) { return sign; }
  return sign | ((fraction | 0x800000) >>> (14 - exponent));
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) { return fraction ? NaN : sign * Infinity; }
  if (exponent === 0) { return sign * fraction * 2 ** -24; }
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The bytes of numbers in a data type, a multiple of four. */
function encode(numbers, dtype) {
  if (dtype === 'f32') { return numbers; }
  const halves = new Uint16Array(Math.ceil(numbers.length / 2) * 2);
  for (let i = 0; i < numbers.length; i += 1) { halves[i] = toHalf(numbers[i]); }
  return halves;
}

/** The numbers of bytes that a device wrote. */
function decode(buffer, dtype, count) {
  if (dtype === 'f32') { return new Float32Array(buffer, 0, count); }
  return Float64Array.from(new Uint16Array(buffer, 0, count), fromHalf);
}

/** Quartiles by linear interpolation. */
function quartiles(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const at = share => {
    const place = share * (sorted.length - 1);
    const low = Math.floor(place);
    const next = sorted[Math.min(low + 1, sorted.length - 1)];
    return sorted[low] + (next - sorted[low]) * (place - low);
  };
  return { low: at(0.25), median: at(0.5), high: at(0.75) };
}

function figures(value) {
  if (!Number.isFinite(value)) { return '–'; }
  const size = Math.abs(value);
  if (size > 0 && size < 0.0995) { return String(Number(value.toPrecision(2))); }
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

function seconds(value) {
  if (value >= 1) { return `${figures(value)} s`; }
  return value >= 1e-3 ? `${figures(value * 1e3)} ms` : `${figures(value * 1e6)} µs`;
}
