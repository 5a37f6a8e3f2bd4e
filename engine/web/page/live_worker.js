// Runs as a SharedWorker: holds each event stream of the server once for all tabs of a browser. A browser opens six
// connections to a server at most, so a stream for each tab would leave none for anything else.

const SILENT_MS = 60_000;
const RETRY_MS = 5_000;

const streams = new Map(); // url → { source, ports, last }
const ports = new Map(); // port → when it was heard last

function open(url, port) {
  const stream = streams.get(url) ?? { source: null, ports: new Set(), last: null };
  streams.set(url, stream);
  stream.ports.add(port);
  if (stream.last) port.postMessage(stream.last);
  if (!stream.source) connect(url, stream);
}

function connect(url, stream) {
  const source = (stream.source = new EventSource(url));
  const tell = (message) => stream.ports.forEach((port) => port.postMessage(message));
  source.onopen = () => tell({ url, isOpen: true });
  source.onmessage = ({ data, lastEventId }) => {
    const message = { url, data };
    // A message without an id is a state, which a tab that joins wants at once; an event is over.
    stream.last = lastEventId ? null : message;
    tell(message);
  };
  source.onerror = () => {
    tell({ url, isLost: true });
    // The server has refused it: the browser does not try again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => stream.source === source && connect(url, stream), RETRY_MS);
  };
}

function close(url, port) {
  const stream = streams.get(url);
  if (!stream?.ports.delete(port) || stream.ports.size) return;
  stream.source?.close();
  stream.source = null;
  streams.delete(url);
}

function forget(port) {
  for (const url of [...streams.keys()]) close(url, port);
  ports.delete(port);
}

// A tab that crashed says nothing.
setInterval(() => {
  for (const [port, heard] of ports) if (Date.now() - heard > SILENT_MS) forget(port);
}, SILENT_MS / 2);

onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    ports.set(port, Date.now());
    if (data.open) open(data.open, port);
    if (data.close) close(data.close, port);
    if (data.isGone) forget(port);
  };
};
