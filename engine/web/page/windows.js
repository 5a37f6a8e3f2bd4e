// A list of any length of which the rows in sight are fetched, by position, in windows.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact.mjs";
import { isTyping } from "./parts.js";

const WINDOW_ROWS = 100;
const WINDOWS_MAX = 40;
/** Browsers clip elements of some 17 million pixels; a longer list is scrolled in proportion. */
const HEIGHT_MAX = 8_000_000;

/** Rows by position, fetched as they come in sight. `fetchWindow(position, count)` gives {rows, total, isExact}. */
export class Windows {
  constructor(fetchWindow, changed) {
    this.fetchWindow = fetchWindow;
    this.changed = changed;
    this.parts = new Map();
    this.total = 0;
    this.isExact = true;
    this.error = null;
    this.isLoading = true;
    this.turn = 0;
  }

  /** The row at a position; undefined: it is not here yet, and asked for. */
  row(position) {
    const number = Math.floor(position / WINDOW_ROWS);
    const part = this.parts.get(number);
    if (!part) this.load(number);
    return part?.rows?.[position % WINDOW_ROWS];
  }

  async load(number) {
    const { turn } = this;
    this.parts.set(number, { rows: null });
    try {
      const answer = await this.fetchWindow(number * WINDOW_ROWS, WINDOW_ROWS, number === 0);
      if (turn !== this.turn) return;
      this.parts.delete(number);
      this.parts.set(number, { rows: answer.rows });
      const end = number * WINDOW_ROWS + answer.rows.length;
      if (answer.total !== undefined) {
        this.total = Math.max(answer.total, end);
        this.isExact = answer.isExact;
      }
      if (answer.isLast) [this.total, this.isExact] = [end, true];
      else this.total = Math.max(this.total, end + 1);
      this.error = null;
    } catch (error) {
      if (turn !== this.turn) return;
      this.parts.delete(number);
      this.error = error;
    }
    this.isLoading = false;
    for (const old of this.parts.keys()) {
      if (this.parts.size <= WINDOWS_MAX) break;
      this.parts.delete(old);
    }
    this.changed();
  }

  /** Fetches again what is here; what is shown stays until then. */
  async refresh() {
    const numbers = [...this.parts.keys()];
    const before = this.parts;
    this.turn += 1;
    this.parts = new Map(before);
    await Promise.all([...new Set([0, ...numbers.slice(-3)])].map((number) => this.reload(number, before.get(number))));
  }

  async reload(number, old) {
    await this.load(number);
    if (this.parts.get(number)?.rows === null && old) this.parts.set(number, old);
  }
}

/**
 * A grid (WAI-ARIA) with one row selected. `cells(row)` gives the cells of a row, `keyOf(row)` what it is.
 */
export function Grid({ windows, version, columns, head, cells, keyOf, selected, select, open, label, rowHeight = 34 }) {
  const scroller = useRef(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [cursor, setCursor] = useState(0);
  const { total } = windows;
  const inner = Math.min(total * rowHeight, HEIGHT_MAX);
  const isScaled = total * rowHeight > HEIGHT_MAX;
  const inSight = Math.max(1, Math.ceil(height / rowHeight));
  const lastTop = Math.max(1, inner - height);
  const first = isScaled
    ? Math.floor((Math.min(top, lastTop) / lastTop) * Math.max(0, total - inSight + 1))
    : Math.floor(top / rowHeight);
  const from = Math.max(0, first - (isScaled ? 0 : 4));
  const to = Math.min(total, first + inSight + 5);

  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setHeight(entry.contentRect.height));
    observer.observe(scroller.current);
    return () => observer.disconnect();
  }, []);

  const topOf = (index) => (isScaled ? (index / Math.max(1, total - inSight + 1)) * lastTop : index * rowHeight);
  const show = (index) => {
    const element = scroller.current;
    if (isScaled) {
      if (index < first || index >= first + inSight - 1) element.scrollTop = topOf(Math.max(0, index - (inSight >> 1)));
    } else if (index * rowHeight < element.scrollTop) element.scrollTop = index * rowHeight;
    else if ((index + 1) * rowHeight > element.scrollTop + height) element.scrollTop = (index + 1) * rowHeight - height;
  };
  const move = (index) => {
    const next = Math.max(0, Math.min(total - 1, index));
    setCursor(next);
    show(next);
    const row = windows.row(next);
    if (row) select(row);
  };
  const keys = {
    ArrowDown: () => move(cursor + 1),
    ArrowUp: () => move(cursor - 1),
    PageDown: () => move(cursor + inSight - 1),
    PageUp: () => move(cursor - inSight + 1),
    Home: () => move(0),
    End: () => move(total - 1),
    Enter: () => windows.row(cursor) && open(windows.row(cursor)),
  };
  const pressed = (event) => {
    const work = keys[event.key];
    if (!work || isTyping(event) || event.ctrlKey || event.target.tagName === "BUTTON") return;
    event.preventDefault();
    work();
  };
  useEffect(() => {
    setCursor(0);
    scroller.current.scrollTop = 0;
  }, [windows]);

  const rows = [];
  for (let index = from; index < to; index += 1) {
    const row = windows.row(index);
    const isSelected = row !== undefined && keyOf(row) === selected;
    rows.push(html`<div
      key=${index} role="row" id=${`row-${index}`} aria-rowindex=${index + 2} aria-selected=${isSelected} tabindex=${index === cursor ? 0 : undefined}
      class=${`row${isSelected ? " selected" : ""}${index === cursor ? " cursor" : ""}`}
      style=${{ transform: `translateY(${isScaled ? top + (index - first) * rowHeight : index * rowHeight}px)`, height: `${rowHeight}px` }}
      onClick=${() => row && (setCursor(index), select(row))} onDblClick=${() => row && open(row)}>
      ${row === undefined
        ? html`<span role="gridcell" class="quiet">…</span>`
        : cells(row).map((cell, place) => html`<span role="gridcell" class=${columns[place].kind ?? ""} title=${typeof cell === "string" ? cell : undefined}>${cell}</span>`)}
    </div>`);
  }
  const template = columns.map((column) => `minmax(0, ${column.wide}fr)`).join(" ");
  return html`<div class="grid" role="grid" aria-label=${label} aria-rowcount=${total + 1} data-version=${version}
    style=${{ "--columns": template }} tabindex="0" onKeyDown=${pressed} aria-activedescendant=${rows.length ? `row-${cursor}` : undefined}>
    <div class="grid-head" role="rowgroup">${head}</div>
    <div class="grid-body" role="rowgroup" ref=${scroller} tabindex="-1"
      onScroll=${(event) => setTop(event.currentTarget.scrollTop)}>
      <div style=${{ height: `${inner}px` }} role="presentation">${rows}</div>
    </div>
  </div>`;
}
