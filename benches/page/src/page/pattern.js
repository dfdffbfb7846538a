// Block patterns: which blocks of a weight [k, n] are kept, and the indices that the kernels read.

/** A pattern from a function that says for each block, in column order, whether it is kept. */
function patternOf(k, n, block, keeps) {
  const rows = Math.ceil(k / block), cols = Math.ceil(n / block);
  const colPtr = new Uint32Array(cols + 1), rowIdx = [], colOfSlot = [];
  for (let col = 0; col < cols; col += 1) {
    for (let row = 0; row < rows; row += 1) {
      if (keeps(row, col)) { rowIdx.push(row); colOfSlot.push(col); }
    }
    colPtr[col + 1] = rowIdx.length;
  }
  const rowPtr = new Uint32Array(rows + 1);
  for (const row of rowIdx) { rowPtr[row + 1] += 1; }
  for (let row = 0; row < rows; row += 1) { rowPtr[row + 1] += rowPtr[row]; }
  const colIdx = new Uint32Array(rowIdx.length), slot = new Uint32Array(rowIdx.length);
  const next = rowPtr.slice();
  rowIdx.forEach((row, at) => {
    colIdx[next[row]] = colOfSlot[at];
    slot[next[row]] = at;
    next[row] += 1;
  });
  return {
    k, n, block, rows, cols, kept: rowIdx.length, colPtr, rowPtr, colIdx, slot,
    rowIdx: Uint32Array.from(rowIdx), colOfSlot: Uint32Array.from(colOfSlot),
  };
}

/** Exactly this share of the blocks, at least one, at random places. */
function randomPattern(k, n, block, density, random) {
  let left = Math.ceil(k / block) * Math.ceil(n / block);
  let wanted = Math.max(1, Math.round(density * left));
  return patternOf(k, n, block, () => {
    const keep = random() * left < wanted;
    left -= 1;
    if (keep) { wanted -= 1; }
    return keep;
  });
}

/** Numbers of the columns, or of the rows, with the longest first. */
function byLength(ptr) {
  const order = Array.from({ length: ptr.length - 1 }, (_, at) => at);
  const length = at => ptr[at + 1] - ptr[at];
  return Uint32Array.from(order.sort((a, b) => length(b) - length(a) || a - b));
}

/** First slots of runs of at most `group` slots of one column, and the end of the last. */
function groupStarts(colPtr, group) {
  const starts = [];
  for (let col = 0; col + 1 < colPtr.length; col += 1) {
    for (let at = colPtr[col]; at < colPtr[col + 1]; at += group) { starts.push(at); }
  }
  starts.push(colPtr[colPtr.length - 1]);
  return Uint32Array.from(starts);
}

/** Values of the kept blocks, zero outside of the weight. */
function packedValues(pattern, random) {
  const { k, n, block, kept, rowIdx, colOfSlot } = pattern;
  const packed = values(kept * block * block, random);
  for (let at = 0; at < kept; at += 1) {
    const rows = k - rowIdx[at] * block, cols = n - colOfSlot[at] * block;
    if (rows >= block && cols >= block) { continue; }
    for (let i = 0; i < block * block; i += 1) {
      if (Math.floor(i / block) >= rows || i % block >= cols) { packed[at * block * block + i] = 0; }
    }
  }
  return packed;
}
