// The words of the worklist.

import { addWords } from "./words.js";

const EN = {
  "worklist.about": "What the modalities have to do, as they see it when they ask. Orders come from the hospital by HL7, or from filmroom worklist add.", "worklist.day": "Day", "worklist.time": "Begins", "worklist.ScheduledProcedureStepStartDate": "Day", "worklist.ScheduledStationAETitle": "Station (AE title)", "worklist.Modality": "Modality", "worklist.PatientName": "Patient", "worklist.PatientID": "Patient ID", "worklist.AccessionNumber": "Accession", "worklist.procedure": "Procedure",
  "worklist.all": "Also what was started, is done or was cancelled", "worklist.count": "Entries: {count}", "worklist.none": "Nothing is scheduled. Another day, or no filter, may have more.", "worklist.no.station": "no station",
  "step.SCHEDULED": "scheduled", "step.ARRIVED": "arrived", "step.READY": "ready", "step.STARTED": "started", "step.DEPARTED": "departed", "step.CANCELED": "cancelled", "step.DISCONTINUED": "discontinued", "step.COMPLETED": "completed",
  why: "Why is a list empty?", "why.explain": "Explain", "why.asked": "{aet} asked last at {time} from {host}, and got {count} entries.", "why.never": "{aet} has never asked. Is this server entered as its worklist there, with exactly that AE title? This is what it would get:", "why.now": "The same query would get {count} entries now, of {scheduled} on all lists; {lost} of these have no station.", "why.hidden": "Not on any list: {hidden}.", "why.role": "Its role hides {count} more.",
  "why.key": "The query asks for", "why.alone": "Entries with it", "why.without": "Entries if it were not asked", "why.others": "These have", "why.no.keys": "The query asks for everything.", "why.empty": "(none)",
};

const DE = {
  "worklist.about": "Was die Modalitäten zu tun haben, so wie sie es sehen, wenn sie fragen. Anforderungen kommen vom Krankenhaus über HL7, oder von filmroom worklist add.", "worklist.day": "Tag", "worklist.time": "Beginn", "worklist.ScheduledProcedureStepStartDate": "Tag", "worklist.ScheduledStationAETitle": "Gerät (AE-Titel)", "worklist.Modality": "Modalität", "worklist.PatientName": "Patient", "worklist.PatientID": "Patienten-ID", "worklist.AccessionNumber": "Auftragsnr.", "worklist.procedure": "Untersuchung",
  "worklist.all": "Auch Begonnenes, Fertiges und Abgesagtes", "worklist.count": "Einträge: {count}", "worklist.none": "Nichts ist geplant. An einem anderen Tag, oder ohne Filter, ist vielleicht mehr.", "worklist.no.station": "kein Gerät",
  "step.SCHEDULED": "geplant", "step.ARRIVED": "angekommen", "step.READY": "bereit", "step.STARTED": "begonnen", "step.DEPARTED": "gegangen", "step.CANCELED": "abgesagt", "step.DISCONTINUED": "abgebrochen", "step.COMPLETED": "fertig",
  why: "Warum ist eine Liste leer?", "why.explain": "Erklären", "why.asked": "{aet} hat zuletzt am {time} von {host} gefragt und {count} Einträge bekommen.", "why.never": "{aet} hat noch nie gefragt. Ist dieser Server dort als Arbeitsliste eingetragen, mit genau diesem AE-Titel? Dies bekäme es:", "why.now": "Dieselbe Abfrage bekäme jetzt {count} Einträge, von {scheduled} auf allen Listen; {lost} davon haben kein Gerät.", "why.hidden": "Auf keiner Liste: {hidden}.", "why.role": "Seine Rolle verbirgt {count} weitere.",
  "why.key": "Die Abfrage verlangt", "why.alone": "Einträge damit", "why.without": "Einträge, wenn es nicht verlangt wäre", "why.others": "Diese haben", "why.no.keys": "Die Abfrage verlangt alles.", "why.empty": "(nichts)",
};

addWords({ en: EN, de: DE });
