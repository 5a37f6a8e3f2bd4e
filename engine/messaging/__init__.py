"""Receives and sends HL7 messages: connections, the way of a message from its bytes to the answer, and its effect."""
