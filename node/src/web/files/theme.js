// Before anything is painted: the theme that was chosen here, if one was. Without one, the system's is used.
try {
  const chosen = localStorage.getItem("selvedge-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage it stays the system's.
}
