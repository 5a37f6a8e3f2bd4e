// The documentation in the colours that were chosen on the page. Not a module: it runs before anything is drawn.

document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
