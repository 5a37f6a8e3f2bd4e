"""`filmroom simulate`: a hospital that does not exist, for tests, demonstrations and load.

`day` plans what happens, the actors do it (`information` sends HL7, `modality` acquires, `assistant` claims workitems,
`workstation` reads), and `books` compare what they did with what the archive has. `simulation` runs a day.
"""
