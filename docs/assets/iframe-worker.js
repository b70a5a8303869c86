/* The search, for pages opened from a disk and for Japanese. Nothing is loaded from the network.

   Browsers start no worker from a disk: there the search's script runs in a hidden frame. (mkdocs-material's plugin
   "offline" loads a shim of this file's name from the network, unless there is one.) Japanese has no spaces, and the
   search divides a query otherwise than the pages: a query with Japanese letters looks for its words as they are. */
(() => {
  const Framed = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.body.appendChild(Object.assign(document.createElement("iframe"), {hidden: true}));
      this.inside = frame.contentWindow;
      const load = source => new Promise((done, failed) => {
        const script = this.inside.document.createElement("script");
        this.inside.document.head.append(Object.assign(script, {src: source, onload: done, onerror: failed}));
      });
      this.inside.importScripts = (...sources) => sources.reduce((before, next) => before.then(() => load(next)), Promise.resolve());
      this.inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}));
      this.ready = load(new URL(url, location.href).href);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", {data})));
    }
  };
  const file = location.protocol === "file:";
  const [SETUP, QUERY, RESULT] = [0, 2, 3];
  const plain = text => new DOMParser().parseFromString(text, "text/html").body.textContent.replace(/\s+/g, " ");
  const safe = text => text.replace(/[&<>]/g, c => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"})[c]);

  const search = (docs, query) => {
    const words = query.toLowerCase().split(/[\s\u3000"*+]+/).filter(Boolean), pages = new Map();
    const marked = text => words.reduce(
      (shown, word) => shown.split(new RegExp(`(${safe(word).replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})`, "i"))
        .map((part, n) => n % 2 ? `<mark>${part}</mark>` : part).join(""), safe(text));
    for (const doc of docs) {
      doc.plain ??= [plain(doc.title), plain(doc.text)];
      const [title, text] = doc.plain, lower = text.toLowerCase(), heading = title.toLowerCase();
      if (!words.length || !words.every(word => heading.includes(word) || lower.includes(word))) continue;
      const at = Math.max(0, Math.min(...words.map(word => lower.indexOf(word)).filter(n => n >= 0)) - 40) || 0;
      const score = words.reduce((sum, word) => sum + 10 * heading.includes(word) + lower.split(word).length - 1, 0);
      const page = doc.location.split("#")[0];
      const found = {...doc, title: marked(title), text: marked(text.slice(at, at + 200)), score, terms: Object.fromEntries(words.map(word => [word, true]))};
      pages.set(page, [...pages.get(page) ?? [], found]);
    }
    for (const [page, found] of pages) {
      const whole = docs.find(doc => doc.location === page);
      if (whole && !found.some(doc => doc.location === page)) found.push({...whole, score: 0, terms: {}});
      found.sort((a, b) => b.score - a.score);
    }
    const total = found => found.reduce((sum, doc) => sum + doc.score, 0);
    return {items: [...pages.values()].sort((a, b) => total(b) - total(a))};
  };

  window.Worker = class extends (file ? Framed : window.Worker) {
    postMessage(message, ...rest) {
      if (message?.type === SETUP) this.docs = message.data.docs.map(doc => ({...doc}));
      if (message?.type === QUERY && this.docs && /[\u3041-\u30ff\u3400-\u9fff]/.test(message.data)) {
        const data = {type: RESULT, data: search(this.docs, message.data)};
        setTimeout(() => this.dispatchEvent(new MessageEvent("message", {data})));
      } else super.postMessage(message, ...rest);
    }
  };
  if (file) window.IFrameWorker = window.Worker; // by which the search's script knows where it runs
})();
