// The reference: one element at a time, in f64, with the sum of magnitudes that bounds its rounding.

/** Value, sum of magnitudes and number of terms of element `at` of the output. */
function exact({ pattern, verb, rows, x, dy, packed }, at) {
  const { k, n, block, rowIdx, colOfSlot, colPtr, rowPtr, colIdx, slot } = pattern;
  let sum = 0, size = 0, terms = 0;
  const add = (a, b) => { sum += a * b; size += Math.abs(a * b); terms += 1; };
  const area = block * block;
  if (verb === 'weight_gradient') {
    const own = Math.floor(at / area), inner = at % area;
    const row = rowIdx[own] * block + Math.floor(inner / block), col = colOfSlot[own] * block + inner % block;
    if (row < k && col < n) {
      for (let m = 0; m < rows; m += 1) { add(x[m * k + row], dy[m * n + col]); }
    }
  } else if (verb === 'forward') {
    const m = Math.floor(at / n), col = at % n, blockCol = Math.floor(col / block);
    for (let own = colPtr[blockCol]; own < colPtr[blockCol + 1]; own += 1) {
      const first = rowIdx[own] * block;
      for (let i = 0; i < block && first + i < k; i += 1) {
        add(x[m * k + first + i], packed[own * area + i * block + col % block]);
      }
    }
  } else {
    const m = Math.floor(at / k), row = at % k, blockRow = Math.floor(row / block);
    for (let place = rowPtr[blockRow]; place < rowPtr[blockRow + 1]; place += 1) {
      const first = colIdx[place] * block;
      for (let j = 0; j < block && first + j < n; j += 1) {
        add(dy[m * n + first + j], packed[slot[place] * area + (row % block) * block + j]);
      }
    }
  }
  return { sum, size, terms };
}

/**
 * Elements of a large output that are compared; all of them are searched for what was not written. A prime, so that the places are
 * not in step with blocks and units.
 */
const SAMPLE = 4099;

/** Largest error over its bound, of an output. Throws where it is above 1, or where something was not written. */
function worst(host, output, kernel) {
  const missing = output.findIndex(Number.isNaN);
  if (missing >= 0) { throw new Trouble(`${kernel.name} is wrong on this GPU: element ${missing} was not written.`); }
  const [own, small] = kernel.dtype === 'f32' ? [2 ** -24, 1e-37] : [2 ** -10, 2 ** -24];
  const step = Math.max(1, output.length / SAMPLE);
  let most = 0;
  for (let place = 0; place < output.length; place += step) {
    const at = Math.floor(place);
    const { sum, size, terms } = exact(host, at);
    const limit = 2 ** -24 * (terms + 2) * size + own * Math.abs(sum) + small;
    const error = Math.abs(output[at] - sum) / limit;
    if (!(error <= 1)) {
      throw new Trouble(`${kernel.name} is wrong on this GPU: element ${at} is ${output[at]}, and should be ${sum}.`);
    }
    most = Math.max(most, error);
  }
  return most;
}

/** Small problems for every kernel: ragged sides, few and many rows; no block, one, half of them, all. */
function checks(kernels, half) {
  const list = [];
  for (const verb of ['forward', 'input_gradient', 'weight_gradient']) {
    for (const block of [...new Set(kernels.map(kernel => kernel.block))]) {
      for (const [dtype, wide] of [['f32', true], ['f32', false], ['f16', true]]) {
        if (dtype === 'f16' && !half) { continue; }
        for (const rows of [1, 2, 15, 16, 17, 33, 64, 130]) {
          const [k, n] = wide ? [3 * block - 4, 2 * block + 4] : [3 * block - 3, 2 * block + 5];
          for (const kind of ['none', 'one', 'half', 'all']) {
            // A product at the kept blocks is not launched without one.
            if (kind === 'none' && verb === 'weight_gradient') { continue; }
            list.push({ verb, block, dtype, wide, rows, k, n, kind });
          }
        }
      }
    }
  }
  return list;
}

/** The pattern of a check. With half of the blocks, the second row and the first column of blocks are empty. */
function checkPattern({ k, n, block, kind }, random) {
  const keeps = {
    none: () => false,
    one: (row, col) => row === 1 && col === 1,
    half: (row, col) => row !== 1 && col !== 0 && (random() < 0.6 || row === 0),
    all: () => true,
  };
  return patternOf(k, n, block, keeps[kind]);
}

/** Checks every kernel, and returns how many problems were right. */
async function checkAll(gpu, kernels, onStep) {
  const list = checks(kernels, gpu.half);
  const used = new Set();
  for (const [at, problem] of list.entries()) {
    onStep(at / list.length, `Checking ${problem.verb.replace('_', ' ')}, blocks of ${problem.block}, ${problem.rows} rows, ${problem.dtype}`);
    const random = generator(at + 1);
    const kernel = kernelFor(kernels, problem);
    const host = tensors(checkPattern(problem, random), problem.verb, problem.rows, random);
    const product = await Product.make(gpu, kernel, host);
    const output = await product.output();
    product.destroy();
    worst(host, output, kernel);
    used.add(kernel.name);
    if (at % 8 === 0) { await new Promise(resolve => setTimeout(resolve)); }
  }
  return { problems: list.length, kernels: used.size };
}
