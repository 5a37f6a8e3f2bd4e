"""Messages for the tests: all made up."""

from __future__ import annotations


def lines(*segments: str) -> bytes:
    return ("\r".join(segments) + "\r").encode()


ADT_A08 = lines(
    "MSH|^~\\&|KIS|STMARY|FILMROOM|RAD|20261130101500+0100||ADT^A08^ADT_A01|MSG00001|P|2.5.1|||AL|NE||UNICODE UTF-8",
    "EVN|A08|20261130101459",
    "PID|1||4711^^^HOSP&1.2.3&ISO^MR~X99^^^OTHER^PI||Müller^Jörg^Karl^jr^Dr^^L||19600229|M|||Am Dom 1^^Köln^^50667",
    "PV1|1|I|WARD1^101^2|||||12^House^Gregory|||||||||||V123^^^VISITS",
)

OMI_O23 = lines(
    "MSH|^~\\&|RIS|STMARY|FILMROOM|RAD|20261130101500||OMI^O23^OMI_O23|MSG00002|P|2.5.1",
    "PID|1||4711^^^HOSP^MR||Muller^Jorg||19600229|M",
    "PV1|1|O|||||||||||||||||V124",
    "ORC|NW|P100^RIS|F100^RIS||SC|||||||77^Cuddy^Lisa",
    "TQ1|1||||||20261201080000+0100||S",
    "OBR|1|P100^RIS|F100^RIS|CT01^CT Thorax^L^RPID24^CT CHEST^RADLEX|||||||||allergic to contrast|||12^House^Gregory",
    "IPC|ACC1^RIS|RP1|1.2.276.0.1|SPS1|CT|PC1^Thorax^L|CT1|Room 2|CTSCANNER",
    "IPC|ACC1^RIS|RP1|1.2.276.0.1|SPS2|CT|PC2^Abdomen^L|CT1|Room 2|CTSCANNER",
)

ORM_O01 = lines(
    "MSH|^~\\&|RIS|STMARY|FILMROOM|RAD|20261130101500||ORM^O01|MSG00003|P|2.3.1",
    "PID|1||4711^^^HOSP||MULLER^JORG||19600229|M",
    "ORC|NW|P101|F101||SC||^^^20261201090000^^R",
    "OBR|1|P101|F101|US01^Sono Abdomen^L||||||||||||12^House^Gregory||ACC2|RP2|SPS3||||US|||^^^20261201090000^^R",
    "ZDS|1.2.276.0.2^100^Application^DICOM",
)

ALL = (ADT_A08, OMI_O23, ORM_O01)
