"use strict";

const at = (id) => document.getElementById(id);
let token = "";
let fields = null;
let history_ids = true;
let shown = "";  // the fields that the form has been made for

function made(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/* Requests. Whatever goes wrong becomes an error whose message can be shown. */

async function call(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body });
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The service cannot be reached.");
  }
  const content = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (answer.status === 401) {
    at("access").hidden = false;
    at("token").focus();
    throw new Error(token ? "The token is not the right one." : "This service asks for a token.");
  }
  at("access").hidden = true;
  if (!answer.ok) throw new Error(content.error);
  return content;
}

/* The form, from the fields that the model reads. */

function input_of(side, field) {
  const id = `${side}.${field.name}`;
  const hint = { multi: "several, by commas", numeric: "a number" }[field.kind] || "";
  const input = made("input", { id, placeholder: hint, autocomplete: "off", spellcheck: false });
  if (field.kind === "numeric") input.inputMode = "decimal";
  return made("div", {}, made("label", { htmlFor: id, textContent: field.name }), input);
}

function show_fields(given) {
  const text = JSON.stringify(given);
  if (text === shown) return;
  shown = text;
  fields = given;
  history_ids = given.history_ids;
  for (const side of ["user", "context"]) {
    const old = Object.fromEntries(fields[side].map(({ name }) => [name, at(`${side}.${name}`)?.value || ""]));
    at(side).replaceChildren(...fields[side].map((field) => input_of(side, field)));
    for (const [name, value] of Object.entries(old)) at(`${side}.${name}`).value = value;
  }
  at("context-set").hidden = !fields.context.length;
  if (!history_ids) {
    const names = fields.history.map(({ name }) => name).join(", ");
    at("history-hint").textContent = `Past records, oldest first: a JSON list of objects with ${names}. May stay empty.`;
  }
}

function listed(text, what) {
  if (!text.trim().startsWith("[")) return text.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${what}: starts like a JSON list, but is not one`);
  }
}

function values_of(side) {
  const values = {};
  for (const { name, kind } of fields ? fields[side] : []) {
    const text = at(`${side}.${name}`).value.trim();
    if (!text) continue;
    if (kind === "multi") values[name] = listed(text, `${side}.${name}`);
    else if (kind !== "numeric") values[name] = text;
    else if (Number.isFinite(Number(text))) values[name] = Number(text);
    else throw new Error(`${side}.${name}: expected a number, got ${text}`);
  }
  return values;
}

function from_fields() {
  const body = { user: values_of("user") };
  if (fields && fields.context.length) body.context = values_of("context");
  body.history = listed(at("history").value, "history");
  body.candidates = listed(at("candidates").value, "candidates");
  if (at("k").value) body.k = Number(at("k").value);
  if (at("ranking").value.trim()) body.ranking = at("ranking").value.trim();
  if (!body.candidates.length) throw new Error("candidates: none given; type ids, or take a sample of the catalogue");
  return body;
}

function to_fields(body) {
  const written = (value) => Array.isArray(value) ? value.join(", ") : String(value ?? "");
  for (const side of ["user", "context"]) {
    for (const { name } of fields ? fields[side] : []) at(`${side}.${name}`).value = written((body[side] || {})[name]);
  }
  for (const name of ["history", "candidates"]) {
    const list = body[name] || [];
    at(name).value = list.some((each) => typeof each === "object") ? JSON.stringify(list, null, 1) : list.join("\n");
  }
  at("k").value = body.k ?? "";
  at("ranking").value = body.ranking ?? "score";
}

function by_json() {
  return document.querySelector("input[name=form]:checked").value === "json";
}

function parsed() {
  try {
    return JSON.parse(at("json").value);
  } catch (error) {
    throw new Error(`JSON: ${error.message}`);
  }
}

function switch_form() {
  try {
    if (by_json()) at("json").value = JSON.stringify(draft(), null, 2);
    else to_fields(parsed());
    complain("");
  } catch (error) {
    complain(error.message);
  }
  at("by-fields").hidden = by_json();
  at("by-json").hidden = !by_json();
}

function draft() {
  try {
    return from_fields();
  } catch {
    return { user: {}, history: [], candidates: [], k: 20, ranking: "score" };
  }
}

/* The answer. */

function complain(message) {
  at("problem").textContent = message;
  at("problem").hidden = !message;
  for (const id of ["summary", "ranked"]) at(id).classList.toggle("stale", Boolean(message));
}

const many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
const digits = (value) => Number(value).toPrecision(4);

function show_answer(body, answer, titles, milliseconds) {
  const parts = [
    `${answer.ids.length} of ${many(body.candidates.length, "candidate")}`,
    `coverage ${(100 * answer.coverage).toFixed(answer.coverage % 1 ? 1 : 0)}\u00a0%`,
    `${milliseconds.toFixed(1)} ms`,
    `generation ${answer.generation}`,
  ];
  if (answer.unknown.length) {
    const some = answer.unknown.slice(0, 5).join(", ") + (answer.unknown.length > 5 ? ", …" : "");
    parts.push(`not in the catalogue: ${some}`);
  }
  if (answer.duplicates) parts.push(`given again: ${answer.duplicates}`);
  if (answer.unknown_history) parts.push(`unknown past items: ${answer.unknown_history}`);
  if (answer.degraded) parts.push("rows from the local store");
  at("summary").textContent = parts.join(" · ");
  const by_score = (body.ranking ?? "score") === "score";
  at("value-head").hidden = by_score;
  const low = Math.min(...answer.values), span = Math.max(...answer.values) - low || 1;
  const rows = answer.ids.map((id, place) => {
    const meter = made("span", { className: "meter" });
    meter.style.width = `${4 + 96 * (answer.values[place] - low) / span}%`;
    const item = made("td", {}, String(id));
    if (titles[place]) item.append(made("small", { textContent: titles[place] }));
    const numbers = by_score ? [answer.scores[place]] : [answer.values[place], answer.scores[place]];
    const cells = numbers.map((number) => made("td", {}, digits(number)));
    cells[0].append(meter);
    return made("tr", {}, made("td", { textContent: place + 1 }), item, ...cells);
  });
  at("ranked").tBodies[0].replaceChildren(...rows);
  at("ranked").hidden = !rows.length;
}

async function rank(event) {
  event.preventDefault();
  at("rank").disabled = true;
  try {
    const body = by_json() ? parsed() : from_fields();
    const begun = performance.now();
    const answer = await call("/v1/rank", JSON.stringify(body));
    const milliseconds = performance.now() - begun;
    const { titles } = await call("/v1/titles", JSON.stringify({ ids: answer.ids }));
    show_answer(body, answer, titles, milliseconds);
    complain("");
  } catch (error) {
    complain(error.message);
  }
  at("rank").disabled = false;
  at("result").scrollIntoView({ block: "nearest" });
  await refresh();
}

async function take_sample() {
  try {
    const { items } = await call("/v1/items?count=50");
    if (!items.length) throw new Error("This catalogue keeps hashes of its ids and no titles, so there is nothing to sample.");
    at("candidates").value = items.map(({ id }) => id).join("\n");
    complain("");
  } catch (error) {
    complain(error.message);
  }
}

/* The service. */

function size(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes ? Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10)) : 0;
  return `${(bytes / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

const time = (seconds) => seconds < 1 ? `${Number((1000 * seconds).toPrecision(3))} ms` : `${seconds} s`;

function quantile(latency, share) {
  const total = latency.counts.reduce((sum, count) => sum + count, 0);
  let below = 0;
  const place = latency.counts.findIndex((count) => (below += count) >= share * total);
  return place < latency.bounds.length ? `within ${time(latency.bounds[place])}` : `over ${time(latency.bounds.at(-1))}`;
}

function show_latency(latency) {
  const { bounds, counts } = latency;
  const total = counts.reduce((sum, count) => sum + count, 0);
  at("latency-summary").textContent = total
    ? `${many(total, "response")}; half ${quantile(latency, 0.5)}, 99\u00a0% ${quantile(latency, 0.99)}`
    : "No ranking requests yet.";
  const first = counts.findIndex(Boolean), last = counts.findLastIndex(Boolean), most = Math.max(...counts);
  const rows = total ? counts.slice(first, last + 1).map((count, number) => {
    const place = first + number;
    const label = place < bounds.length ? `to ${time(bounds[place])}` : `over ${time(bounds.at(-1))}`;
    const bar = made("i");
    bar.style.width = `${100 * count / most}%`;
    return made("li", {}, made("span", { textContent: label }), made("span", {}, ...(count ? [bar] : [])),
      made("span", { textContent: count.toLocaleString("en") }));
  }) : [];
  at("latency").replaceChildren(...rows);
}

function show_state(text, kind) {
  at("state").textContent = text;
  at("state").className = `pill ${kind}`;
}

function show_status(status) {
  show_state(status.status, status.status === "ready" ? "good" : "bad");
  at("served").textContent = status.generation ? `${status.model}, generation ${status.generation}` : "";
  if (status.fields) show_fields(status.fields);
  show_latency(status.latency);
  const facts = { Version: status.version };
  if (status.store) {
    const { items, upserted, bytes, precision, row_bytes } = status.store;
    Object.assign(facts, {
      Model: status.model,
      Generation: status.generation,
      Items: items.toLocaleString("en") + (upserted ? `, and ${upserted.toLocaleString("en")} upserts since` : ""),
      Store: `${size(bytes)}, rows of ${row_bytes} bytes in ${precision}`,
    });
  }
  if (status.store && status.store.shared !== null) {
    facts["Shared store"] = status.store.shared ? "gives the rows" : "does not give rows; the local store answers";
  }
  const answered = Object.entries(status.answered).sort();
  facts.Responses = answered.map(([code, count]) => `${code}: ${count.toLocaleString("en")}`).join(", ") || "none yet";
  at("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) =>
    [made("dt", { textContent: name }), made("dd", { textContent: value })]));
}

async function refresh() {
  try {
    show_status(await call("/v1/status"));
  } catch (error) {
    show_state(at("access").hidden ? "not reached" : "token needed", "bad");
  }
}

at("ask").addEventListener("submit", rank);
at("sample").addEventListener("click", take_sample);
at("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = at("token").value.trim();
  if (!/^[!-~]+$/.test(given)) return complain("A token is one word of printable ASCII characters.");
  token = given;
  await refresh();
  complain(at("access").hidden ? "" : "The token is not the right one.");
});
for (const radio of document.querySelectorAll("input[name=form]")) radio.addEventListener("change", switch_form);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
setInterval(() => document.hidden || !at("access").hidden || refresh(), 5000);
refresh();
