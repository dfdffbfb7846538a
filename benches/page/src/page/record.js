// The record: JSON lines in the format of `blast-bench`, which its `report` and `tune` read.

function machineLine(gpu) {
  return {
    kind: 'machine', version: 1, device: gpu.name, driver: '', backend: 'webgpu', simd: [],
    threads: navigator.hardwareConcurrency || 1, commit: '',
    // The dense side is our own kernel with all blocks kept, not Burn's.
    features: ['dense-by-blocks'], date: new Date().toISOString().slice(0, 10), command: 'page in a browser',
    clock: gpu.stamps ? 'device' : 'wall',
  };
}

function resultLine({ verb, rows, side, block, dtype, host, error, sparse, dense, flops }) {
  const { pattern } = host;
  const transposed = verb === 'input_gradient';
  const indices = pattern.kept * (transposed ? 2 : 1) + 2 * (transposed ? pattern.rows : pattern.cols) + 1;
  return {
    kind: 'result',
    problem: {
      model: `square ${side}`, verb, rows, d_input: side, d_output: side, block,
      sparsity: 1 - pattern.kept / (pattern.rows * pattern.cols), dtype, cold: false,
    },
    rounds: sparse.length, sparse: quartiles(sparse), dense: quartiles(dense), auto: null, auto_path: null,
    speedup: quartiles(dense.map((time, at) => time / sparse[at])),
    kept_flops: flops, dense_flops: 2 * rows * side * side,
    weight_bytes: pattern.kept * block ** 2 * (dtype === 'f32' ? 4 : 2) + 4 * indices, error,
  };
}

/** The record as text. `rate`: the highest dense rate that was seen, in FLOP/s. */
function recordText(machine, lines, rate, dtype) {
  const peaks = rate && dtype === 'f32' ? [{ kind: 'peak', limit: 'dense_f32', rate }] : [];
  return [machine, ...lines, ...peaks].map(line => `${JSON.stringify(line)}\n`).join('');
}

function saveRecord(text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/jsonl' }));
  link.download = 'burn-blast-webgpu.jsonl';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
