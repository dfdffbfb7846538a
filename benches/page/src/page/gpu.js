// The device: asking for it, what it must have, pipelines, buffers.

/** An error whose message is for the reader of the page. */
class Trouble extends Error {}

const NEEDED = {
  maxStorageBuffersPerShaderStage: [8, 'storage buffers a kernel'],
  maxComputeWorkgroupStorageSize: [16384, 'bytes of shared memory'],
  maxComputeInvocationsPerWorkgroup: [256, 'units a cube'],
};
/** Largest buffer to ask for, in bytes. */
const LARGEST = 1 << 30;

async function openGpu() {
  if (!navigator.gpu) {
    throw new Trouble('This browser has no WebGPU here. Open the page in Chrome or Edge 113, Safari 26, or Firefox 141 or later, '
      + 'from a file or over https. On Linux, Chrome may need chrome://flags/#enable-unsafe-webgpu.');
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) {
    throw new Trouble('The browser offers no GPU. Switch hardware acceleration on in its settings, update the graphics driver, '
      + 'or look at chrome://gpu for the reason.');
  }
  for (const [name, [least, what]] of Object.entries(NEEDED)) {
    if (adapter.limits[name] < least) {
      throw new Trouble(`This GPU offers ${adapter.limits[name]} ${what}, and the kernels need ${least}. Try another browser or GPU.`);
    }
  }
  const features = ['shader-f16', 'timestamp-query'].filter(name => adapter.features.has(name));
  const largest = name => Math.min(adapter.limits[name], LARGEST);
  const device = await adapter.requestDevice({
    requiredFeatures: features,
    requiredLimits: { maxBufferSize: largest('maxBufferSize'), maxStorageBufferBindingSize: largest('maxStorageBufferBindingSize') },
  }).catch(error => { throw new Trouble(`The browser refused the GPU: ${error.message}. Reload the page, or restart the browser.`); });
  return new Gpu(adapter, device);
}

class Gpu {
  constructor(adapter, device) {
    const { vendor, architecture, description } = adapter.info ?? {};
    this.device = device;
    this.name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unknown GPU';
    this.software = Boolean(adapter.info?.isFallbackAdapter);
    this.half = device.features.has('shader-f16');
    this.stamps = device.features.has('timestamp-query');
    this.pipelines = new Map();
    this.lost = null;
    // What WebGPU finds wrong with a buffer or a launch, or no memory for: it comes later than the call.
    this.fault = null;
    device.addEventListener('uncapturederror', ({ error }) => {
      const advice = error instanceof GPUOutOfMemoryError ? 'It has no memory for a weight of this size: take a smaller one in the settings.' : 'Please report this with the name of the GPU.';
      this.fault ??= `The GPU refused a step: ${error.message || 'out of memory'}. ${advice}`;
    });
    device.lost.then(({ message, reason }) => { this.lost = message || reason || 'no reason was given'; });
    if (this.stamps) {
      const usage = GPUBufferUsage;
      this.queries = device.createQuerySet({ type: 'timestamp', count: 2 });
      this.resolved = device.createBuffer({ size: 16, usage: usage.QUERY_RESOLVE | usage.COPY_SRC });
      this.readable = device.createBuffer({ size: 16, usage: usage.COPY_DST | usage.MAP_READ });
    }
  }

  /** Throws if the device is gone, or refused something since it was asked last. */
  alive() {
    const { fault } = this;
    this.fault = null;
    if (fault !== null) { throw new Trouble(fault); }
    if (this.lost !== null) {
      throw new Trouble(`The browser lost the GPU (${this.lost}). What was measured can be saved; reload the page to go on.`);
    }
  }

  async pipeline(kernel) {
    this.alive();
    if (!this.pipelines.has(kernel.name)) {
      const { device } = this;
      const types = [...kernel.bindings.map(name => (name === 'out' ? 'storage' : 'read-only-storage')), 'read-only-storage'];
      const entries = types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
      const group = device.createBindGroupLayout({ entries });
      const made = device.createComputePipelineAsync({
        layout: device.createPipelineLayout({ bindGroupLayouts: [group] }),
        compute: { module: device.createShaderModule({ code: kernel.code }), entryPoint: kernel.entry },
      });
      this.pipelines.set(kernel.name, made.then(pipeline => ({ pipeline, group })));
    }
    try {
      return await this.pipelines.get(kernel.name);
    } catch (error) {
      this.alive();
      throw new Trouble(`The browser refused the kernel ${kernel.name}: ${error.message}`);
    }
  }

  /** A buffer of these numbers. One without numbers has a single zero, since a binding must not be empty. */
  buffer(data) {
    const bytes = data.byteLength ? data : new Uint32Array(4);
    if (bytes.byteLength > this.device.limits.maxStorageBufferBindingSize) {
      throw new Trouble(`A tensor of ${Math.round(bytes.byteLength / 1e6)} MB is more than this GPU binds. Take a smaller weight in the settings.`);
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = this.device.createBuffer({ size: Math.ceil(bytes.byteLength / 16) * 16, usage });
    this.device.queue.writeBuffer(buffer, 0, bytes);
    return buffer;
  }

  /** The bytes of a buffer. */
  async read(buffer) {
    const copy = this.device.createBuffer({ size: buffer.size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
    this.device.queue.submit([encoder.finish()]);
    const bytes = await this.mapped(copy);
    copy.destroy();
    return bytes;
  }

  async mapped(buffer) {
    try {
      await buffer.mapAsync(GPUMapMode.READ);
    } catch (error) {
      // The loss is reported after the failure that it causes.
      await new Promise(resolve => setTimeout(resolve, 50));
      this.alive();
      throw new Trouble(`The GPU gave no result: ${error.message}`);
    }
    const bytes = buffer.getMappedRange().slice(0);
    buffer.unmap();
    this.alive();
    return bytes;
  }
}
