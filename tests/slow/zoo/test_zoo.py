"""Every architecture of transformers: exact, or refused with a sentence, as the page of the documentation says.

`python tests/helpers/zoo.py` writes the page anew, for example for another release of transformers.
"""

import pytest
import transformers
import zoo

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("name", zoo.architectures())
def test_log_probs_are_exact_or_the_policy_is_refused(name):
    found = zoo.finding(name)  # raises if log-probs are wrong
    page = zoo.PAGE.read_text()
    if f"transformers {transformers.__version__} has" not in page:
        pytest.skip("the page is of another release of transformers")
    assert (f"`{name}`" if found.refused else zoo.row(found)) in page
