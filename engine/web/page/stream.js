// Event streams of the server. All tabs of a browser share one (live_worker.js); a tab that nobody looks at has none.

const ALIVE_MS = 20_000;

const listeners = new Map(); // url → functions
let port = null;

function shared() {
  if (port) return port;
  const worker = new SharedWorker(new URL("live_worker.js", import.meta.url), "filmroom");
  port = worker.port;
  port.onmessage = ({ data: message }) => listeners.get(message.url)?.forEach((heard) => heard(message));
  port.start();
  setInterval(() => document.hidden || !listeners.size || port.postMessage({ isAlive: true }), ALIVE_MS);
  addEventListener("pagehide", () => port.postMessage({ isGone: true }));
  return port;
}

/** A stream of this tab alone, where a browser has no shared workers. */
function own(url, heard) {
  const source = new EventSource(url);
  source.onopen = () => heard({ isOpen: true });
  source.onmessage = ({ data }) => heard({ data });
  source.onerror = () => heard({ isLost: true });
  return () => source.close();
}

function join(url, heard) {
  if (typeof SharedWorker === "undefined") return own(url, heard);
  if (!listeners.has(url)) listeners.set(url, new Set());
  listeners.get(url).add(heard);
  shared().postMessage({ open: url });
  return () => {
    const all = listeners.get(url);
    all.delete(heard);
    if (all.size) return;
    listeners.delete(url);
    port.postMessage({ close: url });
  };
}

/**
 * Calls `heard({data})` for each message of a stream, while somebody looks; `heard({isLost})` and `heard({isOpen})` when the
 * connection ended and began: what happened before `isOpen` may be missing. Returns what ends it.
 */
export function watch(url, heard) {
  let leave = null;
  const seen = () => {
    if (document.hidden) {
      leave?.();
      leave = null;
    } else {
      leave ??= join(url, heard);
    }
  };
  seen();
  document.addEventListener("visibilitychange", seen);
  addEventListener("pageshow", seen);
  return () => {
    document.removeEventListener("visibilitychange", seen);
    removeEventListener("pageshow", seen);
    leave?.();
    leave = null;
  };
}
