// Colour maps that are read alike by all kinds of colour vision, and the numbers of their scales.

const VIRIDIS = ['440154', '481f70', '443983', '3b528b', '31688e', '287c8e', '21918c', '20a486', '35b779', '5ec962', '90d743', 'c8e020', 'fde725'];
const CIVIDIS = ['00224e', '123570', '3b496c', '575d6d', '707173', '8a8678', 'a59c74', 'c3b369', 'e1cc55', 'fee838'];
// blue to orange through a pale grey: negative to positive
const DIVERGING = ['2d5b9e', '4f83bd', '86add6', 'bdd1e6', 'ececec', 'f2cfa4', 'e6a158', 'cc7317', '9a4c00'];

function table(stops) {
  const colours = stops.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const rgb = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i += 1) {
    const place = (i / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    for (let c = 0; c < 3; c += 1) {
      rgb[3 * i + c] = Math.round(colours[low][c] + (place - low) * (colours[low + 1][c] - colours[low][c]));
    }
  }
  return rgb;
}

export const MAPS = { viridis: table(VIRIDIS), cividis: table(CIVIDIS), diverging: table(DIVERGING) };

// told apart by every kind of colour vision, and on pink tissue; what is hidden is dark
export const FATES = [
  { name: 'entered', title: 'entered the student', rgb: [86, 180, 233] },
  { name: 'recycled', title: 'recycled', rgb: [240, 228, 66] },
  { name: 'high', title: 'masked: highest scores', rgb: [16, 16, 24] },
  { name: 'low', title: 'masked: lowest scores', rgb: [0, 158, 115] },
  { name: 'random', title: 'masked at random', rgb: [213, 94, 0] },
  { name: 'not_drawn', title: 'not in the subsample', rgb: [150, 150, 150] },
];

export const CLASS_COLOURS = ['#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7a5195', '#555555'];

// Rank of each value in 0 … 1; ties share their mean rank.
export function ranks(values) {
  const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]);
  const rank = new Float32Array(values.length);
  if (values.length < 2) return rank.fill(0.5);
  for (let start = 0; start < order.length;) {
    let end = start;
    while (end < order.length && values[order[end]] === values[order[start]]) end += 1;
    for (let i = start; i < end; i += 1) rank[order[i]] = (start + end - 1) / 2 / (values.length - 1);
    start = end;
  }
  return rank;
}

export function quantile(sorted, share) {
  return sorted[Math.round(share * (sorted.length - 1))];
}

export function times(value) {
  if (!(value > 0)) return '0×';
  if (value >= 100) return `${Math.round(value)}×`;
  if (value >= 10) return `${value.toFixed(1)}×`;
  if (value >= 0.001) return `${value >= 0.1 ? value.toFixed(2) : value.toPrecision(1)}×`;
  return `${value.toExponential(0)}×`.replace('e-', 'e−');
}

// {t: Float32Array in 0 … 1, ticks: [{at, text}], map, caption} of attention, which would be 1/num for each tile if even.
export function sequential(attention, num, scale, map) {
  const even = Float32Array.from(attention, (value) => value * num);
  if (scale === 'rank') {
    const sorted = Float32Array.from(even).sort();
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: percent(at), more: times(quantile(sorted, at)) }));
    return { t: ranks(attention), ticks, map, caption: 'rank within the slide; below, attention × an even share' };
  }
  const positive = even.filter((value) => value > 0).sort();
  const high = Math.log10(positive.length ? positive[positive.length - 1] : 1);
  const low = Math.max(high - 4, Math.log10(positive.length ? quantile(positive, 0.02) : 0.1));
  const width = Math.max(high - low, 1e-6);
  const t = even.map((value) => (value > 0 ? Math.min(1, Math.max(0, (Math.log10(value) - low) / width)) : 0));
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: times(10 ** (low + at * width)) }));
  return { t, ticks, map, caption: 'attention × an even share (1× = as much as every other tile), logarithmic' };
}

export function difference(first, second) {
  const a = ranks(first);
  const b = ranks(second);
  const t = a.map((value, i) => (value - b[i] + 1) / 2);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: `${at > 0.5 ? '+' : ''}${Math.round(200 * at - 100)}` }));
  return { t, ticks, map: 'diverging', caption: 'rank here − rank there, in percentage points' };
}

const percent = (at) => `${Math.round(100 * at)} %`;
