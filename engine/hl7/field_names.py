"""The names of fields, as HL7 version 2.5.1 has them in English: of the segments that reach a radiology department."""

from __future__ import annotations

from typing import Final

_NAMES: Final = {
    "MSH": (
        "Field Separator|Encoding Characters|Sending Application|Sending Facility|Receiving Application|Receiving "
        "Facility|Date/Time of Message|Security|Message Type|Message Control ID|Processing ID|Version ID|Sequence "
        "Number|Continuation Pointer|Accept Acknowledgment Type|Application Acknowledgment Type|Country "
        "Code|Character Set|Principal Language of Message|Alternate Character Set Handling Scheme|Message Profile "
        "Identifier"
    ),
    "EVN": (
        "Event Type Code|Recorded Date/Time|Date/Time Planned Event|Event Reason Code|Operator ID|Event "
        "Occurred|Event Facility"
    ),
    "PID": (
        "Set ID|Patient ID|Patient Identifier List|Alternate Patient ID|Patient Name|Mother's Maiden Name|Date/Time "
        "of Birth|Administrative Sex|Patient Alias|Race|Patient Address|County Code|Phone Number - Home|Phone Number "
        "- Business|Primary Language|Marital Status|Religion|Patient Account Number|SSN Number|Driver's License "
        "Number|Mother's Identifier|Ethnic Group|Birth Place|Multiple Birth Indicator|Birth "
        "Order|Citizenship|Veterans Military Status|Nationality|Patient Death Date and Time|Patient Death "
        "Indicator|Identity Unknown Indicator|Identity Reliability Code|Last Update Date/Time|Last Update "
        "Facility|Species Code|Breed Code|Strain|Production Class Code|Tribal Citizenship"
    ),
    "PV1": (
        "Set ID|Patient Class|Assigned Patient Location|Admission Type|Preadmit Number|Prior Patient "
        "Location|Attending Doctor|Referring Doctor|Consulting Doctor|Hospital Service|Temporary Location|Preadmit "
        "Test Indicator|Re-admission Indicator|Admit Source|Ambulatory Status|VIP Indicator|Admitting Doctor|Patient "
        "Type|Visit Number|Financial Class|Charge Price Indicator|Courtesy Code|Credit Rating|Contract Code|Contract "
        "Effective Date|Contract Amount|Contract Period|Interest Code|Transfer to Bad Debt Code|Transfer to Bad Debt "
        "Date|Bad Debt Agency Code|Bad Debt Transfer Amount|Bad Debt Recovery Amount|Delete Account Indicator|Delete "
        "Account Date|Discharge Disposition|Discharged to Location|Diet Type|Servicing Facility|Bed Status|Account "
        "Status|Pending Location|Prior Temporary Location|Admit Date/Time|Discharge Date/Time|Current Patient "
        "Balance|Total Charges|Total Adjustments|Total Payments|Alternate Visit ID|Visit Indicator|Other Healthcare "
        "Provider"
    ),
    "MRG": (
        "Prior Patient Identifier List|Prior Alternate Patient ID|Prior Patient Account Number|Prior Patient ID|Prior "
        "Visit Number|Prior Alternate Visit ID|Prior Patient Name"
    ),
    "ORC": (
        "Order Control|Placer Order Number|Filler Order Number|Placer Group Number|Order Status|Response "
        "Flag|Quantity/Timing|Parent|Date/Time of Transaction|Entered By|Verified By|Ordering Provider|Enterer's "
        "Location|Call Back Phone Number|Order Effective Date/Time|Order Control Code Reason|Entering "
        "Organization|Entering Device|Action By|Advanced Beneficiary Notice Code|Ordering Facility Name|Ordering "
        "Facility Address|Ordering Facility Phone Number|Ordering Provider Address|Order Status Modifier|Advanced "
        "Beneficiary Notice Override Reason|Filler's Expected Availability Date/Time|Confidentiality Code|Order "
        "Type|Enterer Authorization Mode"
    ),
    "OBR": (
        "Set ID|Placer Order Number|Filler Order Number|Universal Service Identifier|Priority|Requested "
        "Date/Time|Observation Date/Time|Observation End Date/Time|Collection Volume|Collector Identifier|Specimen "
        "Action Code|Danger Code|Relevant Clinical Information|Specimen Received Date/Time|Specimen Source|Ordering "
        "Provider|Order Callback Phone Number|Placer Field 1|Placer Field 2|Filler Field 1|Filler Field 2|Results "
        "Report/Status Change Date/Time|Charge to Practice|Diagnostic Service Section ID|Result Status|Parent "
        "Result|Quantity/Timing|Result Copies To|Parent|Transportation Mode|Reason for Study|Principal Result "
        "Interpreter|Assistant Result Interpreter|Technician|Transcriptionist|Scheduled Date/Time|Number of Sample "
        "Containers|Transport Logistics of Collected Sample|Collector's Comment|Transport Arrangement "
        "Responsibility|Transport Arranged|Escort Required|Planned Patient Transport Comment|Procedure Code|Procedure "
        "Code Modifier|Placer Supplemental Service Information|Filler Supplemental Service Information|Medically "
        "Necessary Duplicate Procedure Reason|Result Handling"
    ),
    "TQ1": (
        "Set ID|Quantity|Repeat Pattern|Explicit Time|Relative Time and Units|Service Duration|Start Date/Time|End "
        "Date/Time|Priority|Condition Text|Text Instruction|Conjunction|Occurrence Duration|Total Occurrences"
    ),
    "OBX": (
        "Set ID|Value Type|Observation Identifier|Observation Sub-ID|Observation Value|Units|References "
        "Range|Abnormal Flags|Probability|Nature of Abnormal Test|Observation Result Status|Effective Date of "
        "Reference Range|User Defined Access Checks|Date/Time of the Observation|Producer's ID|Responsible "
        "Observer|Observation Method|Equipment Instance Identifier|Date/Time of the Analysis"
    ),
    "NTE": "Set ID|Source of Comment|Comment|Comment Type",
    "IPC": (
        "Accession Identifier|Requested Procedure ID|Study Instance UID|Scheduled Procedure Step ID|Modality|Protocol "
        "Code|Scheduled Station Name|Scheduled Procedure Step Location|Scheduled Station AE Title"
    ),
    "ZDS": "Study Instance UID",
    "SCH": (
        "Placer Appointment ID|Filler Appointment ID|Occurrence Number|Placer Group Number|Schedule ID|Event "
        "Reason|Appointment Reason|Appointment Type|Appointment Duration|Appointment Duration Units|Appointment "
        "Timing Quantity|Placer Contact Person|Placer Contact Phone Number|Placer Contact Address|Placer Contact "
        "Location|Filler Contact Person|Filler Contact Phone Number|Filler Contact Address|Filler Contact "
        "Location|Entered By Person|Entered By Phone Number|Entered By Location|Parent Placer Appointment ID|Parent "
        "Filler Appointment ID|Filler Status Code|Placer Order Number|Filler Order Number"
    ),
    "RGS": "Set ID|Segment Action Code|Resource Group ID",
    "AIS": (
        "Set ID|Segment Action Code|Universal Service Identifier|Start Date/Time|Start Date/Time Offset|Start "
        "Date/Time Offset Units|Duration|Duration Units|Allow Substitution Code|Filler Status Code"
    ),
    "AIL": (
        "Set ID|Segment Action Code|Location Resource ID|Location Type|Location Group|Start Date/Time|Start Date/Time "
        "Offset|Start Date/Time Offset Units|Duration|Duration Units|Allow Substitution Code|Filler Status Code"
    ),
    "AIP": (
        "Set ID|Segment Action Code|Personnel Resource ID|Resource Type|Resource Group|Start Date/Time|Start "
        "Date/Time Offset|Start Date/Time Offset Units|Duration|Duration Units|Allow Substitution Code|Filler Status "
        "Code"
    ),
    "AIG": (
        "Set ID|Segment Action Code|Resource ID|Resource Type|Resource Group|Resource Quantity|Resource Quantity "
        "Units|Start Date/Time|Start Date/Time Offset|Start Date/Time Offset Units|Duration|Duration Units|Allow "
        "Substitution Code|Filler Status Code"
    ),
    "DG1": "Set ID|Diagnosis Coding Method|Diagnosis Code|Diagnosis Description|Diagnosis Date/Time|Diagnosis Type",
    "AL1": "Set ID|Allergen Type|Allergen Code|Allergy Severity|Allergy Reaction|Identification Date",
    "NK1": "Set ID|Name|Relationship|Address|Phone Number|Business Phone Number|Contact Role",
    "MSA": (
        "Acknowledgment Code|Message Control ID|Text Message|Expected Sequence Number|Delayed Acknowledgment "
        "Type|Error Condition"
    ),
    "ERR": (
        "Error Code and Location|Error Location|HL7 Error Code|Severity|Application Error Code|Application Error "
        "Parameter|Diagnostic Information|User Message"
    ),
}

NAMES: Final = {segment: tuple(names.split("|")) for segment, names in _NAMES.items()}


def field_name(segment: str, number: int) -> str:
    """The name of a field; "" if it is not known."""
    names = NAMES.get(segment, ())
    return names[number - 1] if 0 < number <= len(names) else ""
