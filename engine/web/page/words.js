// Every word of the page, in each language. A language is a column here; a text that lacks in one is English.

const EN = {
  name: "English",
  skip: "Skip to content", main: "Main", language: "Language", theme: "Dark or light", keys: "Keys", key: "Key", meaning: "Meaning", close: "Close",
  no: "No", loading: "Loading…", nothing: "Nothing.", sure: "Are you sure?", done: "Done.", details: "Details", retry: "Try again", cancel: "Cancel",
  search: "Search", open: "Open", reason: "Reason", state: "State", size: "Size", time: "Time", by: "By", on: "on", off: "off", value: "Value", count: "Count", received: "Received", sent: "Sent",
  unreachable: "The server cannot be reached", operation: "Operation", from: "From", stored: "Stored",
  studies: "Studies", study: "Study", series: "Series", instances: "Instances", frames: "Frames", tags: "Elements", tag: "Element", attributes: "Attributes",
  "studies.total": "{total} studies", saved: "Saved filters", filter: "Filter: {column}", "filter.date": "2026-01",
  "saved.today": "Today", "saved.week": "Last 7 days", "saved.ct": "CT this month", "saved.mr": "MR this month", "saved.all": "Last received",
  PatientName: "Patient", PatientID: "Patient ID", PatientBirthDate: "Born", PatientSex: "Sex", StudyDate: "Date", StudyTime: "Time", ModalitiesInStudy: "Modality",
  StudyDescription: "Description", AccessionNumber: "Accession", NumberOfStudyRelatedSeries: "Series", NumberOfStudyRelatedInstances: "Images",
  ReferringPhysicianName: "Referring physician", StudyID: "Study ID",
  unnamed: "(no name)", "no.description": "(no description)", "series.number": "Series {number}", images: "images: {count}", "study.gone": "There is no such study any more.",
  download: "Download (zip with DICOMDIR)", send: "Send…", hold: "Hold…", release: "Release", delete: "Delete…", "same.patient": "All studies of this patient",
  copy: "Copy", copied: "Copied", "copy.of": "Copy {text}", more: "More", "download.one": "Download", "tags.count": "{count} elements", "tags.cut": "(the first ones)",
  "choose.series": "Choose series {name}", "choose.instance": "Choose instance {number}", "choose.none": "Choose none", chosen: "Chosen: {series} series, {instances} instances", "send.to": "To which peer?",
  InstanceAvailability: "Available", "availability.ONLINE": "here", "availability.NEARLINE": "in the bucket", "availability.UNAVAILABLE": "not now", "availability.OFFLINE": "offline",
  "availability.note.NEARLINE": "Some images are in the object store only: the first view of them takes longer.",
  "availability.note.UNAVAILABLE": "Some images are in the object store only, which does not answer now.", "availability.note.OFFLINE": "Some images are offline.",
  StudyState: "State", "study.arriving": "arriving", "study.quiet": "quiet", "study.complete": "complete", "study.reopened": "reopened", "study.new": "instances are coming", "study.idle": "no new instance", "study.announced": "all announced instances are here", "study.after_quiet": "another instance came after it was quiet", "study.after_complete": "another instance came after it was complete", "study.state": "{state}: {why} {since}",
  arrival: "Sent by", sender: "Sender", "received.first": "First received", "received.last": "Last received", "way.import": "Import", "way.http": "HTTP", InstitutionName: "Institution", "study.counts": "series: {series}, images: {images}, {bytes}",
  "hold.set": "Hold", "hold.note": "On hold since {since}, by {by}.", correct: "Correct…", "correct.about": "The stored files stay as they are. Lists, viewers and retrievals show the new values. With the ID of another patient the study becomes that patient's, with name and birth date. A correction can be undone.", "correct.do": "Correct {count}",
  "conflict.reason": "chosen among conflicting values", "conflict.shown": "Shown", "conflict.others": "Other values", "conflicts.choose": "The images of this study disagree. Choose another value to show it instead.",
  "operation.correct": "correct", "operation.merge": "merge", "operation.move": "move", "operation.split": "split", "operation.undo": "undo",
  others: "Other studies of this patient", "patient.none": "There is no study of this patient.", "patient.totals": "studies: {studies}, series: {series}, images: {images}, {bytes}", "key.copy": "Copy the Study Instance UID", "key.send": "Send the study", "key.hold": "Hold the study",
  "saved.edit": "Own…", "saved.about": "Keeps what is in the filters now, in this browser.", "saved.name": "Name", "saved.save": "Keep", "saved.whole": "Also what identifies patients (name, ID, birth date, accession number). Whoever uses this browser sees it.", "saved.drop": "Remove", "saved.remove": "Remove {name}",
  columns: "Columns", "columns.reset": "As it was", Thumbnail: "Image", Bytes: "Size", Senders: "Sent by", Institutions: "Institution", LastReceived: "Received",
  "wrong.date": "Like 2026-01", "wrong.list": "Like CT, MR", "dates.about": "2026, 2026-01, 2026-01-05, 2026-01..2026-03, today, 7d, month", choice: "Chosen studies", "choice.count": "{count} chosen", "choice.many": "too many to download at once", "download.some": "Download", "at.least": "at least", totals: "{images} images, {bytes}",
  "key.choose": "Choose a study; with Shift and arrows several", "key.patient": "All studies of the patient",
  "send.begun": "Sending goes on in the background:", "hold.about": "A study on hold is deleted by nobody and by no rule until it is released.",
  "delete.about": "This deletes the study with {count} images for everybody.", "delete.type": "Type {text} to go on:",
  "delete.trash": "It goes into the trash (Administration) and can be restored for {days} days.", "delete.final": "This is final: there is no trash.",
  trash: "Trash", "trash.none": "The trash is empty.", "trash.about": "Deleted by somebody, and gone for everybody. It can be restored for {days} days; then it is deleted for good.", "trash.off": "Deletions are final now (trash_days is 0). What is here stays until somebody deletes it for good.",
  "trash.what": "Deleted", "trash.act": "Action", "trash.since": "Since", "trash.until": "Until", "trash.held": "on hold", "trash.more": "There is more than is shown here.", "trash.restored": "Restored:", restore: "Restore", "trash.purge": "Delete for good…", "trash.empty": "Empty the trash…",
  "trash.purge.about": "{count} images of {name} are deleted for good. Nobody can restore them.", "trash.empty.about": "All {count} deletions become final. Nobody can restore them. Studies on hold stay.",
  view: "View", "key.view": "View the images", "viewer.about": "Studies open in OHIF if it is installed, else in the plain viewer.", "viewer.installed": "OHIF {version} is installed.", "viewer.missing": "OHIF is not installed. Run on the server:",
  "viewer.whole": "Its scripts are not minified and load more slowly. To try again:", "viewer.outdated": "This version of Filmroom comes with another one. Run on the server:", "viewer.how": "It takes less than a minute and needs the internet, or a file: filmroom help viewer install", "viewer.license": "Licence of OHIF",
  viewer: "Viewer", image: "Image", "image.of": "Image {index} of {count}", "image.broken": "This image cannot be shown.", window: "Window", invert: "Invert", play: "Play", pause: "Pause", reset: "Reset", resume: "Go on",
  "preset.own": "As stored", "preset.soft": "Soft tissue", "preset.lung": "Lung", "preset.bone": "Bone", "preset.brain": "Brain",
  "document.open": "Open the document", "viewer.notice": "For a quick look. Not for diagnosis.",
  "studies.none": "There are no images yet: send some from a scanner, or upload files.",
  upload: "Upload", "upload.files": "Files…", "upload.folder": "Folder…", file: "File",
  "upload.state": "{done} of {total}: {stored} stored, {warned} with a warning, {refused} refused, {skipped} skipped; {bytes}",
  "upload.about": "Drop files, folders or zip archives anywhere on this page, or choose them.", "upload.unreadable": "cannot be read; was it moved or changed?", "upload.clear": "Clear", "upload.show": "Show what has arrived", "upload.searching": "Still looking for files…", "upload.paused": "Paused.", "upload.away": "The server does not answer. Files are sent again as soon as it does.", "upload.more": "and {count} more",
  "zip.damaged": "the zip archive is damaged", "zip.large": "the zip archive has too many members: unpack it first", "zip.encrypted": "is encrypted", "zip.method": "is compressed by method {method}: unpack it first", "zip.member": "is too large to unpack here: unpack it first", "zip.nested": "is nested too deep: unpack it first",
  "state.waiting": "waiting", "state.stored": "stored", "state.warned": "stored, with a warning", "state.refused": "refused", "state.running": "running", "state.done": "done", "state.failed": "failed", "state.cancelled": "cancelled",
  "reason.C000": "is no DICOM file, or cannot be read", "reason.A700": "no room", "reason.A900": "does not fit its SOP class, or what was asked for", "reason.A901": "of another study", "reason.0122": "SOP class is not stored here", "reason.0124": "not allowed", "reason.0110": "the server failed", "reason.C122": "transfer syntax is not stored here",
  "reason.B000": "other bytes than are stored under its UID; kept aside", "reason.B007": "data set does not fit its SOP class", "reason.B006": "elements were left out",
  save: "Save", remove: "Remove", edit: "Change…", "queues.actions": "Actions", worklist: "Worklist", queues: "Queues", job: "Job", "job.send": "Send", "job.pull": "Pull", peer: "Peer", progress: "Progress", began: "Created", failed: "{count} failed", "retry.all": "Try {count} failed again",
  share: "Share…", "glass.begin": "Emergency…", health: "Health", "account.of": "Account of {user}", "account.none": "You are not logged in to an account here.", forbidden: "None of your roles allows this.",
  administration: "Administration", peers: "Peers", "peers.none": "No peer has an address. Add [[peer]] to the configuration.", address: "Address", protocol: "Protocol", may: "May", syntaxes: "Transfer syntaxes",
  quarantine: "Quarantine", drop: "Drop",
  conflicts: "Conflicts", "conflicts.none": "No study contradicts itself.", "conflicts.about": "Studies and series whose images disagree.", corrections: "Corrections", "corrections.none": "No corrections.", undo: "Undo", undone: "undone",
  holds: "Holds", "holds.none": "No study is on hold.", retention: "Retention",
  "key.search": "Search", "key.move": "Move in a list", "key.open": "Open", "key.close": "Close, back", "key.help": "This help", documentation: "Documentation (new tab)", "key.scroll": "Viewer: scroll", "key.series": "Viewer: other series", "key.preset": "Viewer: window presets", "key.cine": "Viewer: play and pause", "key.invert": "Viewer: invert", "key.zoom": "Viewer: zoom", "key.reset": "Viewer: reset",
};

const DE = {
  name: "Deutsch",
  skip: "Zum Inhalt", main: "Hauptmenü", language: "Sprache", theme: "Dunkel oder hell", keys: "Tasten", key: "Taste", meaning: "Bedeutung", close: "Schließen",
  no: "Nein", loading: "Lädt…", nothing: "Nichts.", sure: "Sicher?", done: "Erledigt.", details: "Einzelheiten", retry: "Nochmals", cancel: "Abbrechen",
  search: "Suchen", open: "Öffnen", reason: "Grund", state: "Zustand", size: "Größe", time: "Zeit", by: "Von", on: "an", off: "aus", value: "Wert", count: "Anzahl", received: "Empfangen", sent: "Gesendet",
  unreachable: "Der Server ist nicht erreichbar", operation: "Vorgang", from: "Von", stored: "Gespeichert",
  studies: "Studien", study: "Studie", series: "Serien", instances: "Instanzen", frames: "Bilder", tags: "Elemente", tag: "Element", attributes: "Attribute",
  "studies.total": "{total} Studien", saved: "Gespeicherte Filter", filter: "Filter: {column}", "filter.date": "2026-01",
  "saved.today": "Heute", "saved.week": "Letzte 7 Tage", "saved.ct": "CT diesen Monat", "saved.mr": "MR diesen Monat", "saved.all": "Zuletzt empfangen",
  PatientName: "Patient", PatientID: "Patienten-ID", PatientBirthDate: "Geboren", PatientSex: "Geschl.", StudyDate: "Datum", StudyTime: "Zeit", ModalitiesInStudy: "Modalität",
  StudyDescription: "Beschreibung", AccessionNumber: "Auftragsnr.", NumberOfStudyRelatedSeries: "Serien", NumberOfStudyRelatedInstances: "Bilder",
  ReferringPhysicianName: "Überweiser", StudyID: "Studien-ID",
  unnamed: "(ohne Namen)", "no.description": "(ohne Beschreibung)", "series.number": "Serie {number}", images: "Bilder: {count}", "study.gone": "Diese Studie gibt es nicht mehr.",
  download: "Herunterladen (Zip mit DICOMDIR)", send: "Senden…", hold: "Sperren…", release: "Freigeben", delete: "Löschen…", "same.patient": "Alle Studien dieses Patienten",
  copy: "Kopieren", copied: "Kopiert", "copy.of": "{text} kopieren", more: "Mehr", "download.one": "Herunterladen", "tags.count": "{count} Elemente", "tags.cut": "(die ersten)",
  "choose.series": "Serie {name} auswählen", "choose.instance": "Instanz {number} auswählen", "choose.none": "Nichts auswählen", chosen: "Ausgewählt: {series} Serien, {instances} Instanzen", "send.to": "An welchen Partner?",
  InstanceAvailability: "Verfügbar", "availability.ONLINE": "hier", "availability.NEARLINE": "im Bucket", "availability.UNAVAILABLE": "zurzeit nicht", "availability.OFFLINE": "offline",
  "availability.note.NEARLINE": "Einige Bilder sind nur im Objektspeicher: Wer sie zuerst ansieht, wartet länger.",
  "availability.note.UNAVAILABLE": "Einige Bilder sind nur im Objektspeicher, der zurzeit nicht antwortet.", "availability.note.OFFLINE": "Einige Bilder sind offline.",
  StudyState: "Zustand", "study.arriving": "trifft ein", "study.quiet": "ruht", "study.complete": "vollständig", "study.reopened": "wieder offen", "study.new": "Instanzen treffen ein", "study.idle": "keine neue Instanz", "study.announced": "alle angekündigten Instanzen sind da", "study.after_quiet": "eine weitere Instanz kam, nachdem sie ruhte", "study.after_complete": "eine weitere Instanz kam, nachdem sie vollständig war", "study.state": "{state}: {why} {since}",
  arrival: "Gesendet von", sender: "Absender", "received.first": "Zuerst empfangen", "received.last": "Zuletzt empfangen", "way.import": "Import", "way.http": "HTTP", InstitutionName: "Einrichtung", "study.counts": "Serien: {series}, Bilder: {images}, {bytes}",
  "hold.set": "Sperren", "hold.note": "Gesperrt seit {since}, von {by}.", correct: "Korrigieren…", "correct.about": "Die gespeicherten Dateien bleiben, wie sie sind. Listen, Betrachter und Abrufe zeigen die neuen Werte. Mit der ID eines anderen Patienten gehört die Studie diesem, mit Name und Geburtsdatum. Eine Korrektur lässt sich rückgängig machen.", "correct.do": "{count} korrigieren",
  "conflict.reason": "unter widersprüchlichen Werten gewählt", "conflict.shown": "Gezeigt", "conflict.others": "Andere Werte", "conflicts.choose": "Die Bilder dieser Studie widersprechen sich. Ein anderer Wert kann gewählt werden.",
  "operation.correct": "Korrektur", "operation.merge": "Zusammenführung", "operation.move": "Verschiebung", "operation.split": "Abspaltung", "operation.undo": "Rücknahme",
  others: "Andere Studien dieses Patienten", "patient.none": "Es gibt keine Studie dieses Patienten.", "patient.totals": "Studien: {studies}, Serien: {series}, Bilder: {images}, {bytes}", "key.copy": "Study Instance UID kopieren", "key.send": "Studie senden", "key.hold": "Studie sperren",
  "saved.edit": "Eigene…", "saved.about": "Behält in diesem Browser, was jetzt in den Filtern steht.", "saved.name": "Name", "saved.save": "Behalten", "saved.whole": "Auch, was Patienten kennzeichnet (Name, ID, Geburtsdatum, Auftragsnummer). Wer diesen Browser benutzt, sieht es.", "saved.drop": "Entfernen", "saved.remove": "{name} entfernen",
  columns: "Spalten", "columns.reset": "Wie am Anfang", Thumbnail: "Bild", Bytes: "Größe", Senders: "Gesendet von", Institutions: "Einrichtung", LastReceived: "Empfangen",
  "wrong.date": "Wie 2026-01", "wrong.list": "Wie CT, MR", "dates.about": "2026, 2026-01, 2026-01-05, 2026-01..2026-03, today, 7d, month", choice: "Ausgewählte Studien", "choice.count": "{count} ausgewählt", "choice.many": "zu viele, um sie auf einmal herunterzuladen", "download.some": "Herunterladen", "at.least": "mindestens", totals: "{images} Bilder, {bytes}",
  "key.choose": "Studie auswählen; mit Umschalt und Pfeilen mehrere", "key.patient": "Alle Studien des Patienten",
  "send.begun": "Es wird im Hintergrund gesendet:", "hold.about": "Eine gesperrte Studie löscht niemand und keine Regel, bis sie freigegeben wird.",
  "delete.about": "Löscht die Studie mit {count} Bildern für alle.", "delete.type": "Zum Fortfahren {text} eingeben:",
  "delete.trash": "Sie kommt in den Papierkorb (Verwaltung) und kann {days} Tage lang wiederhergestellt werden.", "delete.final": "Das ist endgültig: Es gibt keinen Papierkorb.",
  trash: "Papierkorb", "trash.none": "Der Papierkorb ist leer.", "trash.about": "Gelöscht und für alle verschwunden. Es kann {days} Tage lang wiederhergestellt werden; danach wird es endgültig gelöscht.", "trash.off": "Löschen ist jetzt endgültig (trash_days ist 0). Was hier ist, bleibt, bis es jemand endgültig löscht.",
  "trash.what": "Gelöscht", "trash.act": "Aktion", "trash.since": "Seit", "trash.until": "Bis", "trash.held": "gesperrt", "trash.more": "Es gibt mehr, als hier zu sehen ist.", "trash.restored": "Wiederhergestellt:", restore: "Wiederherstellen", "trash.purge": "Endgültig löschen…", "trash.empty": "Papierkorb leeren…",
  "trash.purge.about": "{count} Bilder von {name} werden endgültig gelöscht. Niemand kann sie wiederherstellen.", "trash.empty.about": "Alle {count} Löschungen werden endgültig. Niemand kann sie wiederherstellen. Gesperrte Studien bleiben.",
  view: "Ansehen", "key.view": "Bilder ansehen", "viewer.about": "Studien öffnen sich in OHIF, wenn es installiert ist, sonst im einfachen Betrachter.", "viewer.installed": "OHIF {version} ist installiert.", "viewer.missing": "OHIF ist nicht installiert. Auf dem Server ausführen:",
  "viewer.whole": "Seine Skripte sind nicht verkleinert und laden langsamer. Nochmals versuchen:", "viewer.outdated": "Diese Version von Filmroom bringt eine andere mit. Auf dem Server ausführen:", "viewer.how": "Es dauert keine Minute und braucht das Internet oder eine Datei: filmroom help viewer install", "viewer.license": "Lizenz von OHIF",
  viewer: "Betrachter", image: "Bild", "image.of": "Bild {index} von {count}", "image.broken": "Dieses Bild kann nicht gezeigt werden.", window: "Fenster", invert: "Invertieren", play: "Abspielen", pause: "Anhalten", reset: "Zurücksetzen", resume: "Weiter",
  "preset.own": "Wie gespeichert", "preset.soft": "Weichteil", "preset.lung": "Lunge", "preset.bone": "Knochen", "preset.brain": "Gehirn",
  "document.open": "Dokument öffnen", "viewer.notice": "Für einen schnellen Blick. Nicht zur Befundung.",
  "studies.none": "Noch gibt es keine Bilder: Senden Sie welche von einem Gerät, oder laden Sie Dateien hoch.",
  upload: "Hochladen", "upload.files": "Dateien…", "upload.folder": "Ordner…", file: "Datei",
  "upload.state": "{done} von {total}: {stored} gespeichert, {warned} mit Warnung, {refused} abgelehnt, {skipped} übergangen; {bytes}",
  "upload.about": "Dateien, Ordner oder Zip-Archive irgendwo auf diese Seite ziehen oder auswählen.", "upload.unreadable": "nicht lesbar; verschoben oder geändert?", "upload.clear": "Leeren", "upload.show": "Zeigen, was angekommen ist", "upload.searching": "Sucht noch nach Dateien…", "upload.paused": "Angehalten.", "upload.away": "Der Server antwortet nicht. Sobald er es tut, wird nochmals gesendet.", "upload.more": "und {count} weitere",
  "zip.damaged": "das Zip-Archiv ist beschädigt", "zip.large": "das Zip-Archiv hat zu viele Dateien: bitte vorher entpacken", "zip.encrypted": "ist verschlüsselt", "zip.method": "ist mit Verfahren {method} gepackt: bitte vorher entpacken", "zip.member": "ist hier zum Entpacken zu groß: bitte vorher entpacken", "zip.nested": "zu tief verschachtelt: bitte vorher entpacken",
  "state.waiting": "wartet", "state.stored": "gespeichert", "state.warned": "gespeichert, mit Warnung", "state.refused": "abgelehnt", "state.running": "läuft", "state.done": "fertig", "state.failed": "gescheitert", "state.cancelled": "abgebrochen",
  "reason.C000": "keine DICOM-Datei, oder nicht lesbar", "reason.A700": "kein Platz", "reason.A900": "passt nicht zu ihrer SOP-Klasse oder zur Anfrage", "reason.A901": "aus einer anderen Studie", "reason.0122": "diese SOP-Klasse wird hier nicht gespeichert", "reason.0124": "nicht erlaubt", "reason.0110": "der Server ist gescheitert", "reason.C122": "diese Transfersyntax wird hier nicht gespeichert",
  "reason.B000": "andere Bytes, als unter ihrer UID gespeichert sind; aufgehoben", "reason.B007": "Datensatz passt nicht zur SOP-Klasse", "reason.B006": "Elemente wurden weggelassen",
  save: "Speichern", remove: "Entfernen", edit: "Ändern…", "queues.actions": "Aktionen", worklist: "Arbeitsliste", queues: "Warteschlangen", job: "Auftrag", "job.send": "Senden", "job.pull": "Holen", peer: "Partner", progress: "Fortschritt", began: "Angelegt", failed: "{count} gescheitert", "retry.all": "{count} gescheiterte nochmals",
  share: "Teilen…", "glass.begin": "Notfall…", health: "Zustand", "account.of": "Konto von {user}", "account.none": "Sie sind hier in keinem Konto angemeldet.", forbidden: "Keine Ihrer Rollen erlaubt das.",
  administration: "Verwaltung", peers: "Partner", "peers.none": "Kein Partner hat eine Adresse. [[peer]] gehört in die Konfiguration.", address: "Adresse", protocol: "Protokoll", may: "Darf", syntaxes: "Transfersyntaxen",
  quarantine: "Quarantäne", drop: "Verwerfen",
  conflicts: "Widersprüche", "conflicts.none": "Keine Studie widerspricht sich.", "conflicts.about": "Studien und Serien, deren Bilder sich widersprechen.", corrections: "Korrekturen", "corrections.none": "Keine Korrekturen.", undo: "Rückgängig", undone: "rückgängig gemacht",
  holds: "Sperren", "holds.none": "Keine Studie ist gesperrt.", retention: "Aufbewahrung",
  "key.search": "Suchen", "key.move": "In einer Liste bewegen", "key.open": "Öffnen", "key.close": "Schließen, zurück", "key.help": "Diese Hilfe", documentation: "Dokumentation (englisch, neuer Tab)", "key.scroll": "Betrachter: blättern", "key.series": "Betrachter: andere Serie", "key.preset": "Betrachter: Fenster", "key.cine": "Betrachter: abspielen und anhalten", "key.invert": "Betrachter: invertieren", "key.zoom": "Betrachter: vergrößern", "key.reset": "Betrachter: zurücksetzen",
};

export const LANGUAGES = { en: EN, de: DE };

let current = localStorage.getItem("language") ?? navigator.language.slice(0, 2);
if (!(current in LANGUAGES)) current = "en";
document.documentElement.lang = current;

/** Adds the words of a view whose script is fetched later: language → key → text. */
export function addWords(tables) {
  for (const [code, words] of Object.entries(tables)) Object.assign(LANGUAGES[code], words);
}

export const language = () => current;

export function setLanguage(code) {
  current = code;
  localStorage.setItem("language", code);
  document.documentElement.lang = code;
}

/** A text; {name} in it is replaced. What has no text is shown by its key. */
export function t(key, insert = {}) {
  const text = LANGUAGES[current][key] ?? EN[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => insert[name] ?? whole);
}

/** A moment of ISO 8601 in the reader's time zone: 2026-01-05 14:03. */
export function moment(iso) {
  const date = new Date(iso ?? "");
  if (Number.isNaN(date.getTime())) return "–";
  const two = (value) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}
