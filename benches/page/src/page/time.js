// Timing: sparse and dense by turns, by the device's time stamps where it has them.

/** Seconds that a sample should take at least, so that the grain of the clocks does not count. */
const LEAST = 0.015;
/** Most launches of a sample. */
const MOST = 4096;
const ROUNDS = 7;
/** Seconds that a call of the dense product may take where the page selects the size. */
const LONGEST = 0.1;
const SIDES = [256, 512, 1024, 2048];
const PRODUCTS = [['forward', null], ['input_gradient', null], ['weight_gradient', null], ['forward', 1]];

/** Seconds of a launch, over `count` launches one after the other. */
async function sample(gpu, product, count) {
  gpu.alive();
  const { device } = gpu;
  const encoder = device.createCommandEncoder();
  const stamps = gpu.stamps ? { querySet: gpu.queries, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } : undefined;
  const pass = encoder.beginComputePass(stamps && { timestampWrites: stamps });
  for (let at = 0; at < count; at += 1) { product.launch(pass); }
  pass.end();
  if (stamps) {
    encoder.resolveQuerySet(gpu.queries, 0, 2, gpu.resolved, 0);
    encoder.copyBufferToBuffer(gpu.resolved, 0, gpu.readable, 0, 16);
  }
  const start = performance.now();
  device.queue.submit([encoder.finish()]);
  await device.queue.onSubmittedWorkDone();
  const wall = (performance.now() - start) / 1e3;
  gpu.alive();
  if (!stamps) { return wall / count; }
  const [begin, end] = new BigUint64Array(await gpu.mapped(gpu.readable));
  // Some drivers give two equal stamps, or swap them.
  return (end > begin ? Number(end - begin) / 1e9 : wall) / count;
}

/** Launches of a sample: as many as take long enough by the clock that is read. */
async function launches(gpu, product) {
  await sample(gpu, product, 1);
  let count = 1;
  while (count < MOST && count * await sample(gpu, product, count) < LEAST) { count *= 2; }
  return count;
}

/** Seconds of both products in each round, which begin with the one and the other by turns. */
async function byTurns(gpu, sparse, dense) {
  const work = [[sparse, await launches(gpu, sparse), []], [dense.product, dense.launches, []]];
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [product, count, times] of round % 2 ? [...work].reverse() : work) {
      times.push(await sample(gpu, product, count));
    }
  }
  return work.map(([, , times]) => times);
}

/** The fastest of our kernels with all blocks of a square weight kept. */
async function fastestDense(gpu, kernels, { verb, rows, side, dtype }) {
  let best = null;
  for (const block of [...new Set(kernels.map(kernel => kernel.block))]) {
    const random = generator(side + rows + block);
    const host = tensors(patternOf(side, side, block, () => true), verb, rows, random);
    const kernel = kernelFor(kernels, { verb, dtype, block, wide: true, rows });
    const product = await Product.make(gpu, kernel, host);
    worst(host, await product.output(), kernel);
    const count = await launches(gpu, product);
    const times = [];
    for (let round = 0; round < 3; round += 1) { times.push(await sample(gpu, product, count)); }
    const { median } = quartiles(times);
    if (best && best.seconds <= median) { product.destroy(); continue; }
    best?.product.destroy();
    best = { product, launches: count, seconds: median, block };
  }
  return best;
}

/** The side of the weight that suits the device. */
async function suitableSide(gpu, kernels, rows, dtype) {
  const dense = await fastestDense(gpu, kernels, { verb: 'forward', rows, side: SIDES[0], dtype });
  dense.product.destroy();
  const fits = SIDES.filter(side => dense.seconds * (side / SIDES[0]) ** 2 <= LONGEST);
  return fits.length ? fits[fits.length - 1] : SIDES[0];
}

/** Checks a product with this share of its blocks removed, and times it beside the dense one. */
async function against(gpu, kernels, dense, problem) {
  const { verb, rows, side, block, dtype, share, seed } = problem;
  const random = generator(seed);
  const host = tensors(randomPattern(side, side, block, 1 - share, random), verb, rows, random);
  const kernel = kernelFor(kernels, { verb, dtype, block, wide: true, rows });
  const product = await Product.make(gpu, kernel, host);
  try {
    const error = worst(host, await product.output(), kernel);
    const [sparse, other] = await byTurns(gpu, product, dense);
    return { verb, rows, side, block, dtype, host, error, sparse, dense: other, flops: product.flops() };
  } finally {
    product.destroy();
  }
}

/** Measures all problems of the settings; `on` hears of each step, and of each result. */
async function measure(gpu, kernels, settings, on) {
  const { rows: many, dtype, blocks, removed } = settings;
  on.step(0, 'Looking for a size that suits the device');
  const side = settings.side || await suitableSide(gpu, kernels, many, dtype);
  // There is no kernel of few rows in f16 here.
  const products = PRODUCTS.filter(([, rows]) => rows === null || dtype === 'f32');
  const total = products.length * (blocks.length * removed.length + 1);
  let done = 0;
  for (const [verb, few] of products) {
    const rows = few ?? many, name = verb.replace('_', ' ');
    on.step(done / total, `${name}, ${rows} rows, dense`);
    const dense = await fastestDense(gpu, kernels, { verb, rows, side, dtype });
    on.dense(2 * rows * side * side / dense.seconds);
    done += 1;
    try {
      for (const block of blocks) {
        for (const share of removed) {
          if (on.stopped()) { return side; }
          on.step(done / total, `${name}, ${rows} rows, blocks of ${block}, ${Math.round(share * 100)} % removed`);
          on.result(await against(gpu, kernels, dense, { verb, rows, side, block, dtype, share, seed: done + 1 }));
          done += 1;
        }
      }
    } finally {
      dense.product.destroy();
    }
  }
  return side;
}
