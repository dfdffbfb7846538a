// The page: what the buttons do.

const part = id => document.getElementById(id);
const BLOCKS = [16, 32, 64, 128], REMOVED = [0, 25, 50, 70, 80, 90, 95];
const state = { gpu: null, kernels: [], lines: [], rate: 0, dtype: 'f32', stopped: false };

function say(text, wrong) {
  part('status').textContent = text;
  part('status').classList.toggle('wrong', Boolean(wrong));
}

function boxes(id, all, ticked) {
  for (const value of all) {
    const label = element('label'), box = element('input', { type: 'checkbox', value });
    box.checked = ticked.includes(value);
    label.append(box, String(value));
    part(id).append(label);
  }
}

const ticked = id => [...part(id).querySelectorAll('input:checked')].map(box => Number(box.value));

async function unpack(text) {
  if (!globalThis.DecompressionStream) { throw new Trouble('This browser is too old to unpack the kernels. Update it.'); }
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}

function step(share, text) {
  part('bar').value = share;
  say(`${text} …`);
}

/** Runs `work` with the buttons off, and leaves what came out of it in `window.result`. */
async function busy(work) {
  window.result = undefined;
  state.stopped = false;
  for (const id of ['run', 'check', 'save']) { part(id).disabled = true; }
  for (const id of ['stop', 'progress']) { part(id).hidden = false; }
  let result;
  try {
    if (!state.gpu || state.gpu.lost !== null) { await connect(); }
    result = { ok: true, ...await work() };
    say(result.message);
  } catch (error) {
    const known = error instanceof Trouble;
    // A lost device shows as an error of what was going on.
    const lost = state.gpu?.lost ? `The browser lost the GPU (${state.gpu.lost}). ` : '';
    result = { ok: false, message: known ? error.message : `${lost}Something unexpected happened: ${error.message ?? error}. Reload the page to try again.` };
    say(result.message, true);
  }
  for (const id of ['stop', 'progress']) { part(id).hidden = true; }
  for (const id of ['run', 'check']) { part(id).disabled = false; }
  part('save').disabled = !state.lines.length;
  window.result = { ...result, problems: state.lines.length, record: state.lines.length ? record() : '' };
}

const record = () => recordText(state.machine, state.lines, state.rate, state.dtype);

async function run() {
  const settings = {
    side: Number(part('side').value), rows: Number(part('rows').value), dtype: part('dtype').value,
    blocks: ticked('blocks'), removed: ticked('removed').map(percent => percent / 100),
  };
  if (!settings.blocks.length || !settings.removed.length) { throw new Trouble('Tick at least one block size and one share of removed blocks in the settings.'); }
  Object.assign(state, { lines: [], rate: 0, dtype: settings.dtype, machine: machineLine(state.gpu) });
  part('table').replaceChildren();
  const start = performance.now();
  await measure(state.gpu, state.kernels, settings, {
    step, stopped: () => state.stopped,
    dense: rate => { state.rate = Math.max(state.rate, rate); },
    result: result => {
      const line = resultLine(result);
      state.lines.push(line);
      part('results').hidden = false;
      addRow(part('table'), line);
      draw(part('plots'), state.lines);
    },
  });
  const time = Math.round((performance.now() - start) / 1e3);
  const stopped = state.stopped ? 'Stopped after' : 'Done:';
  return { message: `${stopped} ${state.lines.length} problems, each checked, in ${time} s. The fastest dense product made ${figures(state.rate / 1e9)} GFLOP/s.` };
}

async function check() {
  const { problems, kernels } = await checkAll(state.gpu, state.kernels, step);
  return { message: `All right: ${kernels} kernels in ${problems} problems.`, kernels, checked: problems };
}

async function connect() {
  state.gpu = await openGpu();
  const { name, software, half, stamps } = state.gpu;
  const kind = software ? ', in software on the processor: right, but slow' : '';
  part('device').textContent = `${name}${kind}. ${half ? 'Has f16.' : 'No f16.'} Times are read from ${stamps ? 'its time stamps' : 'the clock of the browser'}.`;
  part('half').disabled = !half;
}

async function start() {
  boxes('blocks', BLOCKS, [32, 64]);
  boxes('removed', REMOVED, [0, 50, 80, 90, 95]);
  part('run').onclick = () => busy(run);
  part('check').onclick = () => busy(check);
  part('stop').onclick = () => { state.stopped = true; };
  part('save').onclick = () => saveRecord(record());
  try {
    state.kernels = await unpack(part('kernels').textContent);
    await connect();
    for (const id of ['run', 'check']) { part(id).disabled = false; }
    say('Measure takes a minute or two. Close what else uses the GPU.');
    window.ready = 'yes';
  } catch (error) {
    part('device').textContent = error instanceof Trouble ? error.message : `The page cannot start: ${error.message ?? error}.`;
    part('device').classList.add('wrong');
    window.ready = part('device').textContent;
  }
}

start();
