"""Whether a response affirms or denies: against labels, and over a grammar whose sentences' answers are known."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.evaluation.benchmarks.replies import yes_or_no

YES = """Yes|yes.|YES!|Y|Yeah|Yep.|Yup|Correct|Correct.|That's right.|True|There is one|There is one.|It is|It is.
It does.|They are|Yes, there is a dog.|Yes, no doubt|I would say yes|The answer is yes.|Answer: Yes|**Yes**|Sí
Sí, hay un perro.|Oui.|Oui, il y a un chien|Ja|Ja, natürlich|是|是的。|有|对|Absolutely|Definitely.|Of course.
There is no doubt that there is a dog.|It is not true that there is no dog.|No doubt there is a dog.
Without a doubt, yes.|There is a dog in the image.|I can see a dog.|A dog is visible.|It's not missing.
There isn't any doubt about it, it is there|I do not doubt that there is a dog.|The dog is not absent.
No hay duda de que hay un perro.|Hay un perro.|Es gibt einen Hund.|Il y a un chien.|图中有一只狗。|不是没有狗
Yes, there isn't a cat but a dog|Yes. The dog is not moving.|No... wait, yes.|I think so.|Final answer: yes
Affirmative|Yes it is|Yes there is.|yes!!!|Oh yes|Of course there is|Right.|Certainly, there is a dog.
There are two|There is indeed.|It certainly is.|Yes - a dog.|"Yes"|It is true.|That is the case.
It's not false.|It isn't wrong.|I wouldn't say there is no dog.|It would be wrong to say that there is no dog.
Sim.|Sì.|正确。|Based on the image, yes.|Yes, but it is not clear what it is.|yes, it's not absent|They do.
The statement is correct.|The answer to the question is yes"""
NO = """No|no.|N|Nope|Nope.|Nah|Not at all|Not at all.|It is not visible|It is not visible.|There isn't one
I don't see a dog|I don't see a dog in the image.|It does not|It doesn't.|It isn't|No, there is not.
There is no dog.|There are no dogs in the picture.|The dog is not there|Incorrect.|False|That's not right.
That is false.|Absolutely not|Definitely not.|Not in this picture.|None|There are none.|No, it is not.
Negative|I don't think so.|The answer is no.|Answer: No|**No.**|Non.|Non, il n'y a pas de chien.
Il n'y a pas de chien.|Il n'y a aucun chien.|Nein|Nein, es gibt keinen Hund.|Es gibt keinen Hund.
No hay ningún perro.|No hay un perro|没有|没有。|不是|不|图中没有狗。|否|There is no doubt that there is no dog.
It is true that there is no dog.|It is false that there is a dog.|The image does not show a dog.
A dog is missing.|No dog is visible.|There is no dog, but there is a cat.|I can't see a dog.
Yes... actually, no.|Never|There's no dog here|Isn't there.|I cannot see any dog in this picture|no!
No it isn't|No there isn't|Nope, not there.|Not that I can see.|I see no dog.|I do not see any.
There aren't any.|It's absent.|None visible.|No such object.|Definitely no.|Unfortunately, no.
That is not the case.|It's not true.|It is not the case that there is a dog.|There is nothing like that.
Nein, das stimmt nicht.|Não.|Non, pas du tout.|不对。|没有看到狗|Based on the image, no.|I'm afraid not.|Neither.
No, although there is a cat.|The statement is incorrect.|The answer to the question is no
It is neither a dog nor a cat.|It hasn't.|No dogs.|I would say no"""
NEITHER = """Yes or no?|yes/no|maybe|Perhaps.|It may be yes, it may be no|I'm not sure.|I don't know|It is unclear.
I have no way to hear the question.|Sorry, I have no access to the image.
I'm sorry, but there is no audio in your message.|I can't see the image.|nothing known|The sky is blue.
It depends.|Possibly|I cannot determine that.|It might be a dog.|Hard to say.|A man rides a bike.|oui ou non
ja/nein|可能|不知道|No idea.|I can't tell.|Not sure.|There could be a dog.|42|dog|The dog is on the right.
I'm unable to listen to audio.|我无法看到图片|No sé|Je ne sais pas.|Vielleicht|There is no image attached.
I did not receive any question.|Who knows?|I am unable to say.|There may be one.|Could be.
It is hard to tell whether there is a dog.|I cannot confirm whether there is a dog.
Without more context I cannot say.|Please provide the image.|There is no question in your message.
I can't hear anything.|I did not hear a question.|Sorry, I cannot help with that.|The image is blurry.
A dog or a cat?|Either yes or no.|Unable to answer|no se puede determinar|Das kann ich nicht sagen.
Impossible à dire.|I have no means of hearing audio|Noted.|Know|November"""


@pytest.mark.parametrize("response", YES.replace("\n", "|").split("|"))
def test_affirmations(response):
    assert yes_or_no(response) == "yes"


@pytest.mark.parametrize("response", NO.replace("\n", "|").split("|"))
def test_denials(response):
    assert yes_or_no(response) == "no"


@pytest.mark.parametrize("response", ["", *NEITHER.replace("\n", "|").split("|")])
def test_what_says_neither(response):
    """Refusals and doubts among them."""
    assert yes_or_no(response) is None


def test_refusals_of_eval_09():
    """Of eval_09_refusal_is_a_no, what `yes_or_no` alone is asked."""
    assert yes_or_no("I have no way to hear the question.") is None
    assert yes_or_no("Sorry, I have no access to the image.") is None
    assert yes_or_no("There is no doubt that there is a dog.") == "yes"


# (affirming, denying)
STATEMENTS = [
    ("there is a dog", "there is no dog"), ("there is one", "there isn't one"), ("there are two dogs", "there aren't any"),
    ("I see a dog", "I don't see a dog"), ("a dog is visible", "a dog is not visible"),
    ("there is a dog in the image", "there isn't a dog in the image"), ("it is", "it isn't"), ("it does", "it doesn't"),
]  # fmt: skip
# (what it does with the answer, words before)
FRAMES = [
    (True, ""), (True, "no doubt "), (True, "there is no doubt that "), (True, "it is true that "),
    (False, "it is not true that "), (False, "it is false that "), (False, "it is not the case that "),
]  # fmt: skip
WORDS = [(True, "yes"), (True, "yeah"), (True, "yep"), (False, "no"), (False, "nope"), (True, "oui"), (False, "nein")]
ENDS = ["", ".", "!"]


def said(keeps, affirms):
    return "yes" if keeps == affirms else "no"


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.sampled_from(STATEMENTS), st.sampled_from(FRAMES), st.sampled_from(FRAMES), st.booleans(), st.sampled_from(ENDS),
    st.sampled_from([str, str.capitalize, str.upper]),
)  # fmt: skip
def test_the_number_of_denials_decides(statement, outer, inner, affirms, end, form):
    sentence = form(outer[1] + inner[1] + statement[0 if affirms else 1]) + end
    assert yes_or_no(sentence) == said(outer[0] == inner[0], affirms), sentence


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.sampled_from(WORDS), st.sampled_from([". ", ", ", "! ", ": ", "\n\n"]), st.sampled_from(STATEMENTS), st.booleans(),
    st.sampled_from(["{}", "**{}**", '"{}"', " {} ", "({})"]),
)  # fmt: skip
def test_a_word_of_its_own_comes_first(word, between, statement, affirms, frame):
    """Whatever is explained after it."""
    response = frame.format(word[1]) + between + statement[0 if affirms else 1]
    assert yes_or_no(response) == ("yes" if word[0] else "no"), response


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.sampled_from(WORDS), st.sampled_from(WORDS), st.sampled_from(["no wait, ", "wait, ", "actually, "]))
def test_a_correction_wins(first, second, turn):
    assert yes_or_no(f"{first[1]}... {turn}{second[1]}.") == ("yes" if second[0] else "no")


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from(["maybe ", "perhaps ", "I am not sure whether ", "I can't tell whether ", "it is unclear whether ",
                     "it is hard to say whether ", "I have no idea whether ", "I don't know if "]),
    st.sampled_from(STATEMENTS), st.booleans(), st.sampled_from(ENDS),
)  # fmt: skip
def test_a_doubt_is_unread(doubt, statement, affirms, end):
    assert yes_or_no(doubt + statement[0 if affirms else 1] + end) is None


@pytest.mark.parametrize("piece", ["no ", "yes ", "not not ", "是不是", "no, ", "A ", "\n", "no doubt ", "don't ", "wait "])
def test_time_grows_with_length_alone(piece):
    began = time.process_time()
    yes_or_no(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 10
