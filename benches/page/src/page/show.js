// The table and the plots.

const COLOURS = { 16: '#3f8fd2', 32: '#d9822b', 64: '#3a9d5d', 128: '#a968c9' };

function element(name, attributes, text) {
  const made = name in { svg: 0, line: 0, polyline: 0, text: 0, circle: 0 }
    ? document.createElementNS('http://www.w3.org/2000/svg', name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) { made.setAttribute(key, value); }
  if (text !== undefined) { made.textContent = text; }
  return made;
}

function addRow(table, line) {
  const { problem, sparse, dense, speedup, error, kept_flops: flops } = line;
  const cells = [
    problem.verb.replace('_', ' '), problem.rows, problem.block, `${(problem.sparsity * 100).toFixed(1).replace('.0', '')} %`,
    seconds(sparse.median), seconds(dense.median),
    `${figures(speedup.median)}× (${figures(speedup.low)} to ${figures(speedup.high)})`,
    figures(flops / sparse.median / 1e9), figures(error),
  ];
  const row = element('tr');
  cells.forEach(text => row.append(element('td', {}, text)));
  table.append(row);
}

/** From which share of removed blocks the sparse product is faster, in words. */
function breakEven(block, points) {
  const at = points.findIndex(([, ratio]) => ratio >= 1);
  const percent = share => `${Math.round(share * 100)} %`;
  if (at < 0) { return `Blocks of ${block}: slower up to ${percent(points[points.length - 1][0])} removed.`; }
  if (at === 0) { return `Blocks of ${block}: as fast or faster from ${percent(points[0][0])} removed, the least measured.`; }
  const [[left, low], [right, high]] = [points[at - 1], points[at]];
  return `Blocks of ${block}: faster from about ${percent(left + (right - left) * (1 - low) / (high - low))} removed.`;
}

/** One plot for each product and number of rows. */
function draw(plots, lines) {
  plots.replaceChildren();
  const groups = new Map();
  for (const { problem, speedup } of lines) {
    const key = `${problem.verb.replace('_', ' ')}, ${problem.rows === 1 ? '1 row' : `${problem.rows} rows`}, ${problem.d_input} × ${problem.d_output}, ${problem.dtype}`;
    const series = groups.get(key) ?? new Map();
    groups.set(key, series);
    const points = series.get(problem.block) ?? [];
    series.set(problem.block, points);
    points.push([problem.sparsity, speedup.median]);
  }
  for (const [key, series] of groups) { plots.append(plot(key, series)); }
}

function plot(title, series) {
  const [width, height, left, bottom, top, right] = [360, 230, 40, 32, 10, 62];
  const all = [...series.values()].flat().map(([, ratio]) => Math.log2(ratio));
  const [low, high] = [Math.floor(Math.min(0, ...all)), Math.max(1, Math.ceil(Math.max(...all)))];
  const x = share => left + share * (width - left - right);
  const y = ratio => height - bottom - (Math.log2(ratio) - low) / (high - low) * (height - bottom - top);
  const svg = element('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Speed-up against sparsity: ${title}` });
  for (let power = low; power <= high; power += Math.max(1, Math.ceil((high - low) / 6))) {
    const at = y(2 ** power);
    svg.append(element('line', { x1: left, x2: width - right, y1: at, y2: at, class: power === 0 ? 'even' : 'axis' }));
    const label = power < 0 ? `1/${2 ** -power}×` : `${2 ** power}×`;
    svg.append(element('text', { x: left - 5, y: at + 4, 'text-anchor': 'end' }, label));
  }
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(element('text', { x: x(share), y: height - bottom + 15, 'text-anchor': 'middle' }, `${share * 100} %`));
  }
  svg.append(element('text', { x: x(0.5), y: height - 3, 'text-anchor': 'middle' }, 'blocks removed'));
  const words = [];
  // Labels at the ends of the lines, apart from each other.
  const ends = [...series].map(([block, points]) => ({ block, points: points.sort((a, b) => a[0] - b[0]) }));
  ends.sort((a, b) => y(a.points.at(-1)[1]) - y(b.points.at(-1)[1]));
  let free = top;
  for (const { block, points } of ends) {
    const colour = COLOURS[block] ?? '#888';
    svg.append(element('polyline', { points: points.map(([share, ratio]) => `${x(share)},${y(ratio)}`).join(' '), class: 'series', stroke: colour }));
    points.forEach(([share, ratio]) => svg.append(element('circle', { cx: x(share), cy: y(ratio), r: 3, fill: colour })));
    const [share, ratio] = points.at(-1);
    const at = Math.max(y(ratio) + 4, free);
    free = at + 13;
    svg.append(element('text', { x: x(share) + 7, y: at, style: `fill: ${colour}` }, `b ${block}: ${figures(ratio)}×`));
    words.push(breakEven(block, points));
  }
  const figure = element('figure');
  figure.append(element('strong', {}, title), svg, element('figcaption', {}, words.join(' ')));
  return figure;
}
