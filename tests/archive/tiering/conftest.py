"""The tests' own S3 for every test of archives with a bucket."""

from tests.objects.s3 import s3 as s3
from tests.objects.s3 import s3_server as s3_server
