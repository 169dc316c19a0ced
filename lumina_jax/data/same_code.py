"""Which digests of code (`images.digest_of_code`) make the very same data as older code: it is not made again.

A row is written only by who has compared the records that both make. A digest without a row stands for itself.
"""

from collections.abc import Mapping

# digest of the code: digest that its data go by
SAME_CODE: Mapping[str, str] = {
    # the layout "plain" came, and this table
    "9b0f863fbb48": "ebd7167afc78",  # pictures
    "887d064ed583": "0d5765935ad8",  # records of scenes
    "24fbe70154de": "c51bb7a4953f",  # records of corpora
}
