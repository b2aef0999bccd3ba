// The page of `emobake desk`. It keeps no state of its own but what is being typed: the desk tells all of it, so that
// two tabs and a page that was opened again show the same.

const $ = (id) => document.getElementById(id);
const NAMES = { a: "Mood A", b: "Mood B", unsteered: "Unsteered" };
const RANGE = { low: -2, high: 4, step: 0.05 };
const MANY = 12; // Emotions from which on a field finds them.

let state = null;
let planKey = null;
let streaming = false;
let sending = 0; // Settings that are on their way: until they are, the desk's own are older than the page's.
let sent = Promise.resolve();

// --- speaking with the desk ---------------------------------------------------------------------------------------

async function call(path, body) {
  let response;
  try {
    response = await fetch(`api/${path}`, body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    $("offline").hidden = false;
    throw new Error("the desk does not answer");
  }
  if (!response.ok) {
    const text = await response.text();
    let told = text.trim();
    try { told = JSON.parse(text).error; } catch { /* The guard's answers are plain text. */ }
    throw new Error(told);
  }
  return response;
}

const json = async (path, body) => (await call(path, body)).json();

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

function watch() {
  const source = new EventSource("api/events");
  source.onmessage = (event) => {
    $("offline").hidden = true;
    wanted = JSON.parse(event.data).revision;
    if (!state || wanted > state.revision) refresh();
  };
  source.onerror = () => { $("offline").hidden = false; };
}

let wanted = 0;
let refreshing = null;
/** Look at the state. Changes come in bursts, such as the progress of a bake: one further look answers all of them. */
function refresh() {
  refreshing ??= look().catch(() => {}).finally(() => { refreshing = null; });
  return refreshing;
}

async function look() {
  do show(await json("state")); while (wanted > state.revision);
}

// --- elements -----------------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(element.dataset, value);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** A label and its control, which stay on one line. */
const pair = (label, control) => make("span", { className: "pair" }, label, control);

function fill(list, lines) {
  const same = [...list.children].map((item) => item.textContent).join("\n") === lines.join("\n");
  if (!same) list.replaceChildren(...lines.map((line) => make("li", { textContent: line })));
}

const say = (text) => { $("said").textContent = text; };
const idle = (element) => document.activeElement !== element;
const put = (element, value) => { if (idle(element) && element.value !== String(value)) element.value = value; };

// --- the moods ----------------------------------------------------------------------------------------------------

function strip(side) {
  const box = make("fieldset", { className: "strip", data: { side } });
  const recipe = make("span", { className: "recipe" });
  box.append(make("legend", {}, NAMES[side], recipe));
  const sliders = make("div", { className: "sliders" });
  state.emotions.forEach((emotion, i) => {
    const id = `${side}-${i}`;
    const range = make("input", { type: "range", min: RANGE.low, max: RANGE.high, step: RANGE.step, id,
      data: { emotion }, "aria-label": `${emotion}, ${NAMES[side]}` });
    const number = make("input", { type: "number", step: "any", data: { emotion },
      "aria-label": `${emotion}, ${NAMES[side]}, as a number`, inputMode: "decimal" });
    range.addEventListener("input", () => { number.value = range.value; paint(range); changed(); });
    range.addEventListener("dblclick", () => { range.value = number.value = 0; paint(range); changed(); });
    number.addEventListener("input", () => { range.value = number.value || 0; paint(range); changed(); });
    sliders.append(make("div", { className: "slider", data: { emotion } },
      make("label", { htmlFor: id, textContent: emotion }), range, number));
  });
  const scale = make("input", { type: "number", className: "scale", step: "any", id: `${side}-scale`, inputMode: "decimal" });
  const layers = make("input", { type: "text", className: "layers", id: `${side}-layers`,
    placeholder: `all ${state.layers}`, autocomplete: "off", "aria-describedby": `${side}-wrong` });
  const scope = make("select", { className: "scope", id: `${side}-scope` },
    make("option", { value: "every", textContent: "every position" }),
    make("option", { value: "last", textContent: "the last position" }));
  for (const input of [scale, layers, scope]) input.addEventListener("input", changed);
  const zero = make("button", { type: "button", textContent: "All to 0" });
  zero.addEventListener("click", () => {
    for (const input of sliders.querySelectorAll("input")) { input.value = 0; paint(input); }
    changed();
  });
  box.append(sliders, make("div", { className: "more" },
    make("div", { className: "row" },
      pair(make("label", { htmlFor: scale.id, textContent: "Scale" }), scale),
      pair(make("label", { htmlFor: layers.id, textContent: "Layers" }), layers)),
    make("div", { className: "row" },
      pair(make("label", { htmlFor: scope.id, textContent: "At" }), scope), zero),
    make("p", { className: "wrong", id: `${side}-wrong`, role: "alert", hidden: true })));
  return box;
}

/** Fill the track of a slider between 0 and its value. */
function paint(range) {
  const place = (value) => (100 * (value - RANGE.low)) / (RANGE.high - RANGE.low);
  const ends = [place(0), place(Number(range.value))].sort((one, other) => one - other);
  range.style.setProperty("--from", `${ends[0]}%`);
  range.style.setProperty("--to", `${ends[1]}%`);
}

const boxOf = (side) => $("strips").querySelector(`[data-side="${side}"]`);

function settingOf(side) {
  const box = boxOf(side);
  const weights = {};
  for (const input of box.querySelectorAll(".slider input[type=number]")) {
    if (Number(input.value)) weights[input.dataset.emotion] = Number(input.value);
  }
  return { weights, scale: Number(box.querySelector(".scale").value || 1),
    layers: box.querySelector(".layers").value, scope: box.querySelector(".scope").value };
}

let timer = null;
function changed() {
  sending += timer === null ? 1 : 0;
  clearTimeout(timer);
  timer = setTimeout(() => { timer = null; sent = sent.then(sendSettings); }, 150);
  boxOf("b").hidden = $("beside").value !== "b";
}

/** Send at once what is waiting to be sent, and wait for it. */
function flush() {
  if (timer !== null) {
    clearTimeout(timer);
    timer = null;
    sent = sent.then(sendSettings);
  }
  return sent;
}

async function sendSettings() {
  const body = { a: settingOf("a"), b: settingOf("b"), beside: $("beside").value, history: $("history").value };
  const places = [$("a-wrong"), $("b-wrong")];
  for (const place of places) place.hidden = true;
  try {
    const found = await json("settings", body);
    sending -= 1;
    show(found);
    return true;
  } catch (error) {
    sending -= 1;
    const place = boxOf("b").hidden || boxOf("a").contains(document.activeElement) ? places[0] : places[1];
    place.textContent = error.message;
    place.hidden = false;
    return false;
  }
}

function showSetting(side) {
  const box = boxOf(side), setting = state.settings[side];
  box.querySelector(".recipe").textContent = state.recipes[side];
  if (sending) return;
  for (const row of box.querySelectorAll(".slider")) {
    const weight = setting.weights[row.dataset.emotion] ?? 0;
    for (const input of row.querySelectorAll("input")) { put(input, weight); paint(input); }
  }
  put(box.querySelector(".scale"), setting.scale);
  put(box.querySelector(".layers"), setting.layers);
  put(box.querySelector(".scope"), setting.scope);
}

// --- the conversation ---------------------------------------------------------------------------------------------

function exchangeElement(question) {
  return make("article", { className: "exchange", "aria-label": `Question: ${question.slice(0, 80)}` },
    make("h3", { className: "question", textContent: question }), make("div", { className: "answers" }));
}

function answerElement(side, recipe) {
  return make("section", { className: "answer", data: { side } },
    make("h4", {}, NAMES[side] + (side === "unsteered" ? "" : `: ${recipe}`)),
    make("p", { className: "text" }), make("p", { className: "facts" }));
}

function showSaid(element, said) {
  element.querySelector(".text").textContent = said.text.trim();
  const why = said.interrupted ? ", stopped" : said.ended ? "" : ", cut at the limit";
  const speed = said.seconds > 0 ? `, ${(said.tokens / said.seconds).toFixed(1)} tokens/s` : "";
  element.querySelector(".facts").textContent = `${said.tokens} tokens${why}${speed}`;
  element.querySelector(".broken")?.remove();
  if (said.collapsed) {
    element.append(make("p", { className: "broken", textContent: "This answer has collapsed into repetition." }));
  }
}

function showConversation() {
  $("empty").hidden = state.exchanges.length > 0 || streaming;
  if (streaming) return;
  const told = JSON.stringify(state.exchanges);
  if ($("log").dataset.told !== told) {
    $("log").dataset.told = told;
    for (const old of $("log").querySelectorAll(".exchange")) old.remove();
    $("log").append(...state.exchanges.map((one) => {
      const element = exchangeElement(one.question);
      for (const side of ["a", "unsteered", "b"].filter((name) => one.said[name])) {
        const answer = answerElement(side, one.said[side].recipe);
        showSaid(answer, one.said[side]);
        element.lastChild.append(answer);
      }
      return element;
    }));
    toEnd();
  }
  const last = state.exchanges.findLastIndex((one) => one.cost);
  showCost(last < 0 ? null : state.exchanges[last].cost, last);
}

const toEnd = () => { $("log").scrollTop = $("log").scrollHeight; };

function note(text, kind = "") {
  $("empty").hidden = true;
  $("log").append(make("p", { className: `note ${kind}`, textContent: text }));
  toEnd();
  say(text);
}

async function ask(question) {
  if (streaming) return;
  await flush();
  streaming = true;
  showButtons();
  const log = $("log");
  log.setAttribute("aria-busy", "true"); // A screen reader reads the whole answer, not its pieces.
  let element = null;
  const answers = {};
  try {
    for await (const event of eventsOf(await call("ask", { question }))) {
      if (event.type === "question") {
        if (question === null) [...log.querySelectorAll(".exchange")].at(-1)?.remove();
        $("empty").hidden = true;
        element = exchangeElement(event.question);
        for (const side of event.sides) {
          answers[side] = answerElement(side, state.recipes[side]);
          element.lastChild.append(answers[side]);
        }
        log.append(element);
        if (question !== null) $("question").value = "";
        toEnd();
      } else if (event.type === "piece") {
        answers[event.side].querySelector(".text").textContent += event.text;
        if (log.scrollHeight - log.scrollTop - log.clientHeight < 160) toEnd();
      } else if (event.type === "said") {
        showSaid(answers[event.side], event.said);
        say(`${NAMES[event.side]} has answered.`);
      } else if (event.type === "measuring") {
        $("cost-line").textContent = "Measuring …";
      } else if (event.type === "cost") {
        showCost(event.cost, event.number);
      } else if (event.type === "error") {
        note(event.error);
      }
    }
  } catch (error) {
    note(error.message);
  } finally {
    streaming = false;
    log.removeAttribute("aria-busy");
    delete log.dataset.told;
    await refresh();
    if ($("question").offsetParent && (idle(document.body) === false || document.activeElement === $("send"))) $("question").focus();
  }
}

async function typed() {
  const text = $("question").value.trim();
  if (!text) return;
  if (!text.startsWith("/")) { await ask(text); return; }
  await flush();
  try {
    const { lines } = await json("command", { line: text });
    $("question").value = "";
    note(lines.join("\n"), "told");
    await refresh();
  } catch (error) {
    note(error.message);
  }
}

// --- costs --------------------------------------------------------------------------------------------------------

let shownCost = "";
function showCost(cost, number) {
  const key = cost ? `${number} ${theme()} ${cost.kl} ${cost.tokens}` : "";
  if (key === shownCost && !$("cost-line").textContent.startsWith("Measuring")) return;
  shownCost = key;
  const line = $("cost-line");
  if (!cost) {
    line.textContent = state.can_steer ? "Measured after each answer: KL to the base, and the dose by layer."
      : "A GGUF file is for listening: nothing is measured.";
    $("dose").hidden = true;
    return;
  }
  const kl = cost.kl === null ? "not measured" : cost.kl.toFixed(3);
  const share = cost.largest.dose === null ? "not measured" : `${(100 * cost.largest.dose).toFixed(0)}%`;
  line.replaceChildren("KL to the base ", make("b", { textContent: kl }), ` nats per token over ${cost.tokens} tokens of `
    + "the last answer; largest dose ", make("b", { textContent: share }), ` of the base's own output, in layer ${cost.largest.layer}.`);
  $("dose").src = `api/dose.svg?number=${number}&theme=${theme()}&of=${encodeURIComponent(key)}`;
  $("dose").alt = `Dose by layer: the largest is ${share}, in layer ${cost.largest.layer}.`;
  $("dose").hidden = false;
}

function showCautions() {
  const both = state.settings.beside === "b";
  const told = Object.entries(state.cautions).filter(([side]) => side === "a" || both);
  fill($("cautions"), told.flatMap(([side, lines]) => lines.map((line) => (both ? `${NAMES[side]}: ${line}` : line))));
}

// --- baking -------------------------------------------------------------------------------------------------------

function order() {
  const data = new FormData($("order"));
  const form = data.get("form");
  return { side: data.get("side"), form, name: $("name").value, overwrite: $("overwrite").checked,
    private: form === "hub" && $("private").checked ? true : null };
}

function orderChanged() {
  const { form } = order();
  const hints = { folder: `in ${state.folder}`, gguf: `in ${state.folder}; needs llama.cpp's converter`,
    adapter: `in ${state.folder}, for PEFT`, hub: "owner/name; with the token of this machine" };
  $("name-hint").textContent = hints[form];
  $("name-label").textContent = form === "hub" ? "Repository" : "Name";
  $("name").placeholder = form === "hub" ? "me/joyful" : form === "gguf" ? "joyful.gguf" : "joyful";
  $("private-row").hidden = form !== "hub";
  planKey = null;
  $("start").disabled = true;
  $("planned").hidden = true;
}

async function bakeStep(work) {
  $("bake-error").hidden = true;
  try {
    await work();
  } catch (error) {
    $("bake-error").textContent = error.message;
    $("bake-error").hidden = false;
  }
}

const plan = () => bakeStep(async () => {
  orderChanged();
  $("plan").disabled = true;
  $("plan").textContent = "Planning …";
  try {
    await flush();
    const found = await json("bake/plan", order());
    planKey = found.key;
    $("job").hidden = true;
    showPlanned(found);
    $("start").disabled = false;
    $("start").focus();
    say(`Dry run: ${found.recipe} into ${found.out}. ${found.warnings.length} warnings. Nothing was written yet.`);
  } finally {
    $("plan").disabled = false;
    $("plan").textContent = "Dry run";
  }
});

function showPlanned(found) {
  $("planned-title").textContent = `${found.recipe} into ${found.out}`;
  fill($("planned-warnings"), found.warnings);
  fill($("planned-lines"), found.lines);
  $("command").textContent = found.command;
  $("python").textContent = found.python;
  $("planned").hidden = false;
}

function showJob() {
  const { job } = state, running = job?.state === "running";
  $("cancel").hidden = !running;
  $("plan").disabled = running;
  if (running) $("start").disabled = true;
  $("job-line").textContent = !job ? "" : running ? `Baking ${job.planned.out} …`
    : job.state === "done" ? `${job.planned.out} is baked.` : job.error;
  $("job-line").classList.toggle("wrong", job?.state === "failed");
  if (!job || planKey !== null) return;
  $("job").hidden = false;
  const part = job.total ? job.done / job.total : 0;
  const title = { running: `${job.task || "Baking"} … ${job.total ? `${Math.round(100 * part)}%` : ""}`,
    done: "Done", failed: "It failed", cancelled: "Cancelled" }[job.state];
  $("job-title").textContent = title;
  if (running && !job.total) $("progress").removeAttribute("value");
  else $("progress").value = job.state === "done" ? 1 : part;
  fill($("job-lines"), [...job.notices, ...job.lines, ...(job.error ? [job.error] : [])]);
  if (running || $("planned").hidden) showPlanned(job.planned);
}

// --- vector sets --------------------------------------------------------------------------------------------------

async function openSets() {
  const sets = await json("sets");
  const figure = (value, digits) => (value === null ? "" : typeof value === "number" ? value.toFixed(digits) : value);
  $("set-tables").replaceChildren(...sets.map((set) => make("div", {}, make("table", {},
    make("caption", { textContent: `${set.name}: ${set.layers} layers × ${set.hidden}, at the ${set.site}` }),
    make("thead", {}, make("tr", {}, ...["emotion", "mean norm", "queries", "split-half", "measured strength"].map(
      (title) => make("th", { scope: "col", textContent: title })))),
    make("tbody", {}, ...set.emotions.map((one) => make("tr", {},
      make("th", { scope: "row", textContent: one.emotion }),
      ...[figure(one.norm, 3), figure(one.queries, 0), figure(one.split_half, 3), figure(one.strength)].map(
        (text) => make("td", { textContent: text }))))),
  ), ...set.problems.map((text) => make("p", { className: "wrong", textContent: text })))));
  $("cosines").alt = `Tables of cosines between the emotions of ${sets.map((set) => set.name).join(" and ")}.`;
  $("cosines").hidden = false;
  $("cosines").src = `api/cosines.svg?theme=${theme()}`;
  $("sets").showModal();
}

// --- colours ------------------------------------------------------------------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");
const CHOICES = ["", "light", "dark"];
let chosen = "";
function theme() { return chosen || (system.matches ? "dark" : "light"); }
function nextTheme() {
  chosen = CHOICES[(CHOICES.indexOf(chosen) + 1) % CHOICES.length];
  document.documentElement.dataset.theme = chosen;
  $("theme").setAttribute("aria-label", `Colours: ${chosen || "as the system"}`);
  themeChanged();
}
function themeChanged() {
  if (state) showConversation();
}

// --- everything ---------------------------------------------------------------------------------------------------

function showButtons() {
  const busy = streaming || state.answering;
  $("send").disabled = busy;
  $("send").textContent = busy ? "Answering …" : "Ask";
  $("stop").hidden = !busy;
  $("again").disabled = $("reset").disabled = busy || !state.exchanges.length;
}

function show(found) {
  const first = state === null;
  state = found;
  $("model").textContent = `${state.model} · ${state.description}`;
  $("model").title = $("model").textContent;
  if (first) {
    document.title = `${state.model.split("/").at(-1)} · emobake desk`;
    if (state.note) note(state.note);
    $("moods").hidden = $("bake-row").hidden = $("open-sets").hidden = !state.can_steer;
    $("fixed").hidden = state.can_steer;
    $("fixed").textContent = `${state.fixed_mood}. A GGUF file holds its mood; to mix moods, open the desk with the checkpoint.`;
    if (state.can_steer) {
      $("strips").replaceChildren(strip("a"), strip("b"));
      $("filter-row").hidden = state.emotions.length <= MANY;
    }
  }
  if (state.can_steer) {
    for (const side of ["a", "b"]) {
      showSetting(side);
      $(`order-${side}`).textContent = state.recipes[side];
    }
    if (!sending) {
      put($("beside"), state.settings.beside);
      put($("history"), state.settings.history);
      boxOf("b").hidden = state.settings.beside !== "b";
    }
    $("history").disabled = $("beside").value === "off";
    $("order-b-row").hidden = $("beside").value !== "b";
    showCautions();
  }
  put($("temperature"), state.sampling.temperature);
  put($("length"), state.sampling.max_new_tokens);
  put($("system"), state.sampling.system);
  $("personas").hidden = state.personas === null;
  $("persona-names").replaceChildren(...(state.personas ?? []).map((name) => make("option", { value: name })));
  showConversation();
  showButtons();
  showJob();
  if (first) orderChanged();
  document.body.dataset.ready = "yes";
}

async function sendSampling() {
  try {
    show(await json("sampling", { temperature: Number($("temperature").value), system: $("system").value,
      max_new_tokens: Math.round(Number($("length").value)) }));
  } catch (error) {
    note(error.message);
  }
}

async function persona(action) {
  const name = $("persona").value.trim();
  const isThere = (state.personas ?? []).includes(name);
  const overwrite = action === "save" && isThere && confirm(`Replace the persona ${name}?`);
  if (action === "save" && isThere && !overwrite) return;
  try {
    await flush();
    show(await json(`personas/${action}`, { name, overwrite }));
    say(`${name}: ${action === "load" ? "loaded" : "saved"}.`);
  } catch (error) {
    note(error.message);
  }
}

function begin() {
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); typed(); });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); typed(); }
  });
  $("stop").addEventListener("click", () => call("stop", {}).catch(() => {}));
  $("again").addEventListener("click", () => ask(null));
  $("reset").addEventListener("click", async () => {
    try {
      const found = await json("reset", {});
      for (const old of $("log").querySelectorAll(".note")) old.remove();
      show(found);
      $("question").focus();
    } catch (error) { note(error.message); }
  });
  for (const id of ["beside", "history"]) $(id).addEventListener("input", changed);
  for (const id of ["temperature", "length", "system"]) $(id).addEventListener("change", sendSampling);
  $("filter").addEventListener("input", () => {
    for (const row of document.querySelectorAll(".slider")) row.hidden = !row.dataset.emotion.includes($("filter").value.toLowerCase());
  });
  $("open-bake").addEventListener("click", () => { orderChanged(); showJob(); $("bake").showModal(); $("name").focus(); });
  $("order").addEventListener("input", orderChanged);
  $("order").addEventListener("submit", (event) => { event.preventDefault(); plan(); });
  $("start").addEventListener("click", () => bakeStep(async () => {
    const key = planKey;
    planKey = null;
    $("start").disabled = true;
    await json("bake/start", { key });
    await refresh();
  }));
  $("cancel").addEventListener("click", () => bakeStep(() => call("bake/cancel", {})));
  $("open-sets").addEventListener("click", () => openSets().catch((error) => note(error.message)));
  $("persona-load").addEventListener("click", () => persona("load"));
  $("persona-save").addEventListener("click", () => persona("save"));
  $("theme").addEventListener("click", nextTheme);
  system.addEventListener("change", themeChanged);
  watch();
  refresh();
}

begin();
