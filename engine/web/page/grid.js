// A grid (WAI-ARIA) that shows the rows of `Windows` in sight, of which one is selected. Works by mouse, keys and touch.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact.mjs";
import { isTyping } from "./parts.js";

/** Browsers clip elements of some 17 million pixels. A longer list has this height, and its scroll bar is in proportion. */
const HEIGHT_MAX = 8_000_000;
const LINE_PX = 40;
/** Rows that are drawn above and below those in sight. */
const MARGIN = 4;
/** Characters of a cell, which shows one line. A hostile value has 64 thousand. */
const CELL_MAX = 400;

/** A cell as it is shown. */
const cut = (cell) => (typeof cell === "string" && cell.length > CELL_MAX ? `${cell.slice(0, CELL_MAX)}…` : cell);

/**
 * The place in a list, `y`, in pixels of its whole length. A list that is too long for its element scrolls exactly by wheel,
 * keys and touch, and in proportion by the scroll bar: a scroll of less than a screen counts as it is, a longer one is a jump.
 */
class Place {
  constructor() {
    this.y = 0;
    this.top = 0;
    this.length = 0;
    this.height = 1;
  }

  measure(length, height) {
    [this.length, this.height] = [length, height];
  }

  get inner() {
    return Math.min(this.length, HEIGHT_MAX);
  }

  /** Pixels of the list for one of the element. */
  get ratio() {
    return this.length > HEIGHT_MAX ? (this.length - this.height) / (HEIGHT_MAX - this.height) : 1;
  }

  /** Goes to a pixel of the list. */
  go(y, element) {
    this.y = Math.max(0, Math.min(this.length - this.height, y));
    element.scrollTop = this.y / this.ratio;
    this.top = element.scrollTop;
  }

  /** The element has been scrolled. */
  follow(element) {
    const delta = element.scrollTop - this.top;
    this.top = element.scrollTop;
    if (this.ratio === 1) this.y = this.top;
    else if (Math.abs(delta) >= this.height) this.y = this.top * this.ratio;
    else this.y = Math.max(0, Math.min(this.length - this.height, this.y + delta));
  }
}

/** `cells(row)` gives the cells of a row. `marks`: {has(key), toggle(row), add(rows)}, the rows that were chosen to do something with. */
export function Grid({ windows, version, columns, head, cells, selected, select, open, marks, label, rowHeight = 34 }) {
  const grid = useRef(null);
  const scroller = useRef(null);
  const { current: place } = useRef(new Place());
  const [, draw] = useState(0);
  const [height, setHeight] = useState(600);
  const [cursor, setCursor] = useState(0);
  /** Key of the row at the cursor, which it follows when rows arrive above. */
  const chosen = useRef(null);
  /** The cursor went to a row that is not here yet: it is selected when it is. */
  const isAwaited = useRef(false);
  /** The cursor went to the end of a list whose rows are not counted yet: it goes on to the last one when they are. */
  const isToEnd = useRef(false);
  const { total, keyOf } = windows;
  place.measure(total * rowHeight, height);
  const first = Math.max(0, Math.min(total - 1, Math.floor(place.y / rowHeight)));
  const last = Math.min(total - 1, Math.floor((place.y + height - 1) / rowHeight));
  const go = (y) => {
    place.go(y, scroller.current);
    draw((turn) => turn + 1);
  };
  const choose = (index, row) => {
    setCursor(index);
    chosen.current = row ? keyOf(row) : null;
    isAwaited.current = !row;
    if (row) select(row);
  };

  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setHeight(entry.contentRect.height));
    observer.observe(scroller.current);
    return () => observer.disconnect();
  }, []);
  // Who comes back to a list finds it where it was left; in another list the selected row stays so, if it is in sight.
  const latest = useRef(cursor);
  latest.current = cursor;
  useLayoutEffect(() => {
    const kept = selected ? windows.positionOf(selected) : undefined;
    const isKept = kept !== undefined && (kept + 1) * rowHeight <= height;
    const left = windows.place ?? { y: 0, cursor: isKept ? kept : 0, chosen: isKept ? selected : null };
    setCursor(left.cursor);
    chosen.current = left.chosen;
    isAwaited.current = left.chosen !== null;
    go(left.y);
    if (windows.place) grid.current.focus();
    return () => {
      windows.place = { y: place.y, cursor: latest.current, chosen: chosen.current };
    };
  }, [windows]);
  useLayoutEffect(() => {
    const shift = windows.takeShift();
    if (shift) go(place.y + shift * rowHeight);
    if (isToEnd.current && windows.isCounted) {
      move(windows.total - 1);
      return;
    }
    const row = windows.row(cursor);
    if (chosen.current !== null && (!row || keyOf(row) !== chosen.current)) setCursor(windows.positionOf(chosen.current) ?? cursor);
    else if (isAwaited.current && row) choose(cursor, row);
  }, [windows, version, cursor]);
  useEffect(() => windows.look(first, Math.max(first, last)));
  useEffect(() => {
    const element = scroller.current;
    const wheel = (event) => {
      if (place.ratio === 1 || event.ctrlKey || !event.deltaY) return;
      event.preventDefault();
      go(place.y + event.deltaY * (event.deltaMode === 1 ? LINE_PX : event.deltaMode === 2 ? place.height : 1));
    };
    // The scroll bar is put where it belongs once nobody holds it.
    const ended = () => place.ratio === 1 || go(place.y);
    element.addEventListener("wheel", wheel, { passive: false });
    element.addEventListener("scrollend", ended);
    return () => {
      element.removeEventListener("wheel", wheel);
      element.removeEventListener("scrollend", ended);
    };
  }, []);

  const move = (index) => {
    const next = Math.max(0, Math.min(total - 1, index));
    if (next * rowHeight < place.y) go(next * rowHeight);
    else if ((next + 1) * rowHeight > place.y + height) go((next + 1) * rowHeight - height);
    isToEnd.current = false;
    choose(next, windows.row(next));
  };
  /** From the cursor to another row, as far as the rows are here. */
  const markTo = (index) => {
    const rows = [];
    for (let at = Math.min(cursor, index); at <= Math.max(cursor, index); at += 1) if (windows.row(at)) rows.push(windows.row(at));
    marks.add(rows);
  };
  const clicked = (event, index, row) => {
    if (!row) return;
    if (event.shiftKey) markTo(index);
    else if (event.ctrlKey || event.metaKey || event.target.closest(".mark")) marks.toggle(row);
    isToEnd.current = false;
    choose(index, row);
  };
  const onePage = Math.max(1, Math.floor(height / rowHeight) - 1);
  const keys = {
    ArrowDown: () => move(chosen.current === null && !isAwaited.current ? cursor : cursor + 1),
    ArrowUp: () => move(cursor - 1),
    PageDown: () => move(cursor + onePage),
    PageUp: () => move(cursor - onePage),
    Home: () => move(0),
    End: () => {
      move(total - 1);
      isToEnd.current = !windows.isCounted;
    },
    Enter: () => windows.row(cursor) && open(windows.row(cursor)),
    " ": () => windows.row(cursor) && marks.toggle(windows.row(cursor)),
  };
  const pressed = (event) => {
    // From a filter down into the rows.
    if (event.target.tagName === "INPUT" && (event.key === "ArrowDown" || event.key === "Enter")) {
      event.preventDefault();
      grid.current.focus();
      return;
    }
    const work = keys[event.key];
    if (!work || isTyping(event) || event.ctrlKey || event.target.tagName === "BUTTON") return;
    event.preventDefault();
    const before = { ArrowDown: cursor + 1, ArrowUp: cursor - 1, PageDown: cursor + onePage, PageUp: cursor - onePage }[event.key];
    if (event.shiftKey && before !== undefined) markTo(Math.max(0, Math.min(total - 1, before)));
    work();
  };

  const rows = [];
  for (let index = Math.max(0, first - MARGIN); index < Math.min(total, last + 1 + MARGIN); index += 1) {
    const row = windows.row(index);
    const isSelected = row !== undefined && keyOf(row) === selected;
    const isMarked = row !== undefined && marks.has(keyOf(row));
    rows.push(html`<div
      key=${index} role="row" id=${`row-${index}`} aria-rowindex=${index + 3} aria-selected=${isSelected || isMarked} tabindex=${index === cursor ? 0 : undefined}
      class=${`row${isSelected ? " selected" : ""}${isMarked ? " marked" : ""}${index === cursor ? " cursor" : ""}`}
      style=${{ transform: `translateY(${place.top + index * rowHeight - place.y}px)`, height: `${rowHeight}px` }}
      onClick=${(event) => clicked(event, index, row)} onDblClick=${() => row && open(row)}>
      ${row === undefined
        ? html`<span role="gridcell" class="quiet">…</span>`
        : cells(row).map(cut).map((cell, column) => html`<span role="gridcell" class=${columns[column].kind ?? ""} title=${typeof cell === "string" ? cell : undefined}>${cell}</span>`)}
    </div>`);
  }
  const template = columns.map((column) => `minmax(0, ${column.wide}fr)`).join(" ");
  const isCursorDrawn = cursor >= first - MARGIN && cursor <= last + MARGIN && cursor < total;
  return html`<div class="grid" role="grid" aria-multiselectable="true" ref=${grid} aria-label=${label} aria-rowcount=${windows.isExact ? total + 2 : -1}
    style=${{ "--columns": template }} tabindex="0" onKeyDown=${pressed} aria-activedescendant=${isCursorDrawn ? `row-${cursor}` : undefined}>
    <div class="grid-head" role="rowgroup">${head}</div>
    <div class="grid-body" role="rowgroup" ref=${scroller} tabindex="-1"
      onScroll=${(event) => { place.follow(event.currentTarget); draw((turn) => turn + 1); }}>
      <div style=${{ height: `${place.inner}px` }} role="presentation">${rows}</div>
    </div>
  </div>`;
}
