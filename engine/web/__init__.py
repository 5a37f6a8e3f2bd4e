"""The HTTP front: DICOMweb, health, metrics; aiohttp on sockets that the supervisor hands over."""
