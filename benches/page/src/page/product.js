// Products: their tensors on the device, and launches of a kernel.

/** The kernel for a product: the one made for the fewest rows that are not fewer, or for the most. */
function kernelFor(kernels, { verb, dtype, block, wide, rows }) {
  const fit = kernels.filter(kernel => kernel.verb === verb && kernel.dtype === dtype && kernel.block === block && kernel.wide === wide);
  fit.sort((a, b) => a.for_rows - b.for_rows);
  const kernel = fit.find(candidate => candidate.for_rows >= rows) ?? fit[fit.length - 1];
  if (!kernel) { throw new Trouble(`The page has no kernel for blocks of ${block} in ${dtype}.`); }
  return kernel;
}

/**
 * The tensors of a product on the host: `x [rows, k]`, `dy [rows, n]`, packed `values`. The input gradient contracts over n.
 */
function tensors(pattern, verb, rows, random) {
  const x = verb === 'input_gradient' ? null : values(rows * pattern.k, random);
  const dy = verb === 'forward' ? null : values(rows * pattern.n, random);
  const packed = verb === 'weight_gradient' ? null : packedValues(pattern, random);
  return { pattern, verb, rows, x, dy, packed };
}

/** Elements of the output. */
function outputCount({ pattern, verb, rows }) {
  if (verb === 'forward') { return rows * pattern.n; }
  return verb === 'input_gradient' ? rows * pattern.k : pattern.kept * pattern.block ** 2;
}

/** A product on the device, ready to be launched. */
class Product {
  static async make(gpu, kernel, host) {
    const { pipeline, group } = await gpu.pipeline(kernel);
    return new Product(gpu, kernel, host, pipeline, group);
  }

  constructor(gpu, kernel, host, pipeline, group) {
    const { pattern, verb, rows, x, dy, packed } = host;
    Object.assign(this, { gpu, kernel, host, pipeline });
    this.count = outputCount(host);
    const poison = new Float32Array(this.count).fill(NaN);
    const transposed = verb === 'input_gradient';
    const ptr = transposed ? pattern.rowPtr : pattern.colPtr;
    const data = {
      x: () => encode(transposed ? dy : x, kernel.dtype),
      dy: () => encode(dy, kernel.dtype),
      values: () => encode(packed, kernel.dtype),
      order: () => byLength(ptr),
      ptr: () => ptr,
      idx: () => (transposed ? pattern.colIdx : pattern.rowIdx),
      slot: () => pattern.slot,
      row_of_slot: () => pattern.rowIdx,
      col_of_slot: () => pattern.colOfSlot,
      starts: () => groupStarts(pattern.colPtr, kernel.group),
      // Column, part, parts: no column is split.
      parts: () => Uint32Array.from([...byLength(pattern.colPtr)].flatMap(column => [column, 0, 1])),
      out: () => encode(poison, kernel.dtype),
    };
    this.buffers = kernel.bindings.map(name => gpu.buffer(data[name]()));
    this.out = this.buffers[kernel.bindings.indexOf('out')];

    const tiles = verb === 'weight_gradient'
      ? groupStarts(pattern.colPtr, kernel.group).length - 1
      : Math.ceil(rows / kernel.tile_rows) * (ptr.length - 1);
    const cubes = tiles * kernel.block_tiles;
    const numbers = {
      m: rows, k: transposed ? pattern.n : pattern.k, n: transposed ? pattern.k : pattern.n, cubes,
      // All rows at once: the inputs of this page fit the cache for which the kernels are cut.
      panel: kernel.tile_rows ? Math.ceil(rows / kernel.tile_rows) : 1,
      columns: pattern.cols,
    };
    // The sizes, padded to 8 bytes, then the lengths of the buffers, which these kernels do not read.
    const sizes = new Uint32Array(Math.ceil(kernel.sizes.length / 2) * 2 + Math.ceil(kernel.bindings.length / 2) * 2);
    kernel.sizes.forEach((name, at) => { sizes[at] = numbers[name]; });
    this.buffers.push(gpu.buffer(sizes));
    const entries = this.buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
    this.group = gpu.device.createBindGroup({ layout: group, entries });
    // A kernel finds its number from all three axes, and ignores cubes beyond the last.
    const wide = Math.min(cubes, 65535);
    this.grid = cubes ? [wide, Math.ceil(cubes / wide)] : null;
  }

  launch(pass) {
    if (!this.grid) { return; }
    pass.setPipeline(this.pipeline);
    pass.setBindGroup(0, this.group);
    pass.dispatchWorkgroups(...this.grid);
  }

  /** The output of one launch. */
  async output() {
    const encoder = this.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.launch(pass);
    pass.end();
    this.gpu.device.queue.submit([encoder.finish()]);
    return decode(await this.gpu.read(this.out), this.kernel.dtype, this.count);
  }

  /** Multiplications and additions on kept blocks. */
  flops() {
    const { pattern, rows } = this.host;
    return 2 * rows * pattern.kept * pattern.block ** 2;
  }

  destroy() {
    for (const buffer of this.buffers) { buffer.destroy(); }
  }
}
