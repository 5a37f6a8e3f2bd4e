"""The use cases: store, find, read, verify. Knows neither DIMSE nor HTTP; all front ends meet here."""
