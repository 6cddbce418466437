// The page of `selfkd record`: consent, then sentence after sentence. The server keeps what is recorded; the page holds
// no state that a reload would lose. A recording is sent as a WAV file of 16 bits at the microphone's own rate.

const MAX_SECONDS = 30;
const $ = (id) => document.getElementById(id);
let speaker = new URLSearchParams(location.search).get("speaker") ?? "";
let state, at = 0, recorder = null, busy = false;

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server cannot be reached: does selfkd still run in the terminal?");
  }
  const body = await response.json().catch(() => ({ reason: `error ${response.status}; see the terminal` }));
  if (!response.ok) throw new Error(body.reason);
  return body;
}

const of = (path) => `${path}?speaker=${encodeURIComponent(speaker)}`;

function show(section) {
  for (const id of ["consent", "session", "done"]) $(id).hidden = id !== section;
}

function say(id, text, kind = "") {
  $(id).textContent = text;
  $(id).className = `message ${kind}`;
}

async function load() {
  state = await request(of("state"));
  if (!state.has_agreed) {
    $("count").textContent = state.count;
    $("consent-text").textContent = state.consent;
    $("speaker").value ||= speaker;
    show("consent");
    return;
  }
  const first = state.sentences.findIndex((s) => !s.is_recorded);
  if (first < 0) return finish();
  go(first);
}

function finish() {
  $("commands").replaceChildren(
    ...state.commands.map((command) => Object.assign(document.createElement("pre"), { textContent: command })),
  );
  show("done");
}

function go(index) {
  at = Math.min(Math.max(index, 0), state.sentences.length - 1);
  const sentence = state.sentences[at], total = state.sentences.length;
  const recorded = state.sentences.filter((s) => s.is_recorded).length;
  $("who").textContent = speaker;
  $("progress-text").textContent = `${recorded} of ${total} recorded`;
  $("progress").max = total;
  $("progress").value = recorded;
  $("number").textContent = `Sentence ${at + 1} of ${total}`;
  $("sentence").textContent = sentence.text;
  $("sentence").lang = state.language;
  $("card").classList.toggle("no-image", !sentence.has_image);
  $("frame").hidden = !sentence.has_image;
  if (sentence.has_image) $("image").src = `image/${at}`;
  else $("image").removeAttribute("src");
  say("message", sentence.is_recorded ? "Recorded. Play it, repeat it, or take the next one." : "");
  showPlayer();
  update();
  show("session");
}

function showPlayer() {
  const { is_recorded } = state.sentences[at];
  $("player").hidden = !is_recorded;
  if (is_recorded) $("player").src = `${of(`recording/${at}`)}&take=${Date.now()}`;
  else $("player").removeAttribute("src");
}

function update() {
  const sentence = state.sentences[at], isLast = at === state.sentences.length - 1;
  const isComplete = state.sentences.every((s) => s.is_recorded);
  $("record").textContent = recorder ? "Stop" : sentence.is_recorded ? "Repeat" : "Record";
  $("record").classList.toggle("recording", recorder !== null);
  $("record").disabled = busy;
  $("next").textContent = isComplete && isLast ? "Finish" : sentence.is_recorded ? "Next" : "Skip";
  $("next").disabled = busy || recorder !== null || (isLast && !isComplete && state.sentences.length === 1);
  $("back").disabled = busy || recorder !== null || at === 0;
}

function next() {
  if ($("next").disabled) return;
  const isLast = at === state.sentences.length - 1;
  if (!isLast) return go(at + 1);
  const first = state.sentences.findIndex((s) => !s.is_recorded);
  if (first < 0) finish();
  else go(first); // those that were skipped
}

async function start() {
  busy = true;
  update();
  say("message", "");
  $("player").pause();
  try {
    if (!navigator.mediaDevices) throw new Error("this browser gives no microphone to this address; open http://localhost");
    // what a browser changes for calls would be in the recording
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    const context = new AudioContext();
    await context.audioWorklet.addModule("recorder.js");
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const blocks = [];
    let length = 0;
    node.port.onmessage = ({ data }) => {
      blocks.push(data);
      length += data.length;
      meter(data);
      if (length > MAX_SECONDS * context.sampleRate && recorder) stop();
    };
    context.createMediaStreamSource(stream).connect(node);
    recorder = { stream, context, blocks };
    say("message", "Read the sentence now, then stop.");
  } catch (error) {
    const isDenied = error.name === "NotAllowedError" || error.name === "NotFoundError";
    say("message", isDenied ? "No microphone: connect one, and allow this page to use it." : error.message, "bad");
  }
  busy = false;
  update();
}

async function stop() {
  const { stream, context, blocks } = recorder;
  recorder = null;
  busy = true;
  update();
  stream.getTracks().forEach((track) => track.stop());
  const rate = context.sampleRate;
  await context.close();
  $("meter").firstElementChild.style.width = 0;
  try {
    const headers = { "Content-Type": "audio/wav" };
    const kept = await request(of(`recording/${at}`), { method: "POST", headers, body: wav(blocks, rate) });
    state.sentences[at].is_recorded = true;
    busy = false;
    go(at);
    say("message", `Recorded (${kept.level_dbfs} dBFS). Play it, repeat it, or take the next one.`, "good");
  } catch (error) {
    const before = state.sentences[at].is_recorded ? " The earlier recording is kept." : "";
    say("message", `Not kept: ${error.message.replace(/[.?]*$/, (end) => end || ".")}${before}`, "bad");
  }
  busy = false;
  update();
}

function meter(samples) {
  const peak = samples.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
  const level = peak > 0 ? Math.max(0, 1 + (20 * Math.log10(peak)) / 60) : 0; // 60 dB wide
  $("meter").firstElementChild.style.width = `${100 * Math.min(1, level)}%`;
  $("meter").classList.toggle("clipped", peak >= 0.999);
}

function wav(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  const file = new DataView(new ArrayBuffer(44 + 2 * length));
  const text = (position, value) => [...value].forEach((c, i) => file.setUint8(position + i, c.charCodeAt(0)));
  text(0, "RIFF");
  file.setUint32(4, 36 + 2 * length, true);
  text(8, "WAVEfmt ");
  file.setUint32(16, 16, true);
  [1, 1].forEach((value, i) => file.setUint16(20 + 2 * i, value, true)); // PCM, one channel
  file.setUint32(24, rate, true);
  file.setUint32(28, 2 * rate, true);
  [2, 16].forEach((value, i) => file.setUint16(32 + 2 * i, value, true));
  text(36, "data");
  file.setUint32(40, 2 * length, true);
  let position = 44;
  for (const block of blocks) {
    for (const x of block) {
      file.setInt16(position, Math.round(32767 * Math.max(-1, Math.min(1, x))), true);
      position += 2;
    }
  }
  return file.buffer;
}

const toggle = () => (recorder ? stop() : busy ? null : start());
$("record").onclick = toggle;
$("next").onclick = next;
$("back").onclick = () => go(at - 1);
$("again").onclick = () => go(0);
$("consent").onsubmit = async (event) => {
  event.preventDefault();
  speaker = $("speaker").value.trim();
  say("consent-message", "");
  try {
    if (!(await request(of("state"))).has_agreed) {
      const body = JSON.stringify({ speaker, text: state.consent });
      await request("agree", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    }
    history.replaceState(null, "", of(location.pathname));
    await load();
  } catch (error) {
    say("consent-message", error.message, "bad");
  }
};
document.onkeydown = (event) => {
  const isButton = event.target.closest("button") !== null; // which Space presses by itself
  if ($("session").hidden || event.repeat || event.target.closest("audio, input")) return;
  if (event.ctrlKey || event.altKey || event.metaKey || (isButton && event.key === " ")) return;
  const actions = { " ": toggle, ArrowRight: next, ArrowLeft: () => $("back").disabled || go(at - 1) };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
};
if (window.frameElement) { // a tab of the app is as high as its content
  new ResizeObserver(() => (window.frameElement.style.height = `${document.body.scrollHeight + 8}px`)).observe(document.body);
}
load().catch((error) => {
  show("consent");
  say("consent-message", error.message, "bad");
});
