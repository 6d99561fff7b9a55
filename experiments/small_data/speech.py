"""Speech without labels: sentences that mean nothing, and single words, in all languages of eSpeak NG."""

# ruff: noqa: RUF001, SIM905

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import engines
import numpy as np
from numpy.random import Generator
from sounds import SAMPLE_RATE, VOICES
from textures import Sound

from aape.errors import AapeError

# Beside the voices of training those that are no copies, with an echo or without, of validation's and test's.
VARIANTS = VOICES["train"] + tuple(
    "AnxiousAndy Demonic RicishayMax UniRobot adam announcer benjamin caleb croak david edward edward2 iven2 iven3 "
    "iven4 klatt klatt2 klatt3 klatt4 klatt5 klatt6 whisper".split()
)
SECONDS, WORD_SECONDS = (2.0, 5.0), (0.1, 2.0)  # shortest and longest
ENGLISH_SHARE = 0.25  # of the words
MOST_DRAWS, DRAWS_OF_A_VOICE = 40, 8

LATIN = ("a e i o u", "b d f g h k l m n p r s t v w y z ch sh st tr pl")
SCRIPTS = {  # vowels and consonants
    "cyrillic": ("а е и о у ю я", "б в г д ж з к л м н п р с т ф х ц ч ш ст тр"),
    "greek": ("α ε η ι ο ου ω", "β γ δ ζ θ κ λ μ ν ξ π ρ σ τ φ χ ψ"),
    "hebrew": ("א ו י ה", "ב ג ד ז ח ט כ ל מ נ ס ע פ צ ק ר ש ת"),
    "arabic": ("ا و ي", "ب ت ج ح د ر ز س ش ص ط ع ف ق ك ل م ن ه"),
    "georgian": ("ა ე ი ო უ", "ბ გ დ ვ ზ თ კ ლ მ ნ პ ჟ რ ს ტ ფ ქ ღ ყ შ ჩ ც ძ წ ჭ ხ ჯ ჰ"),
    "armenian": ("ա ե ի ո ու", "բ գ դ զ թ ժ լ խ կ հ ձ ղ ճ մ ն շ չ պ ջ ս վ տ ր ց փ ք"),
    "sinhala": ("ා ි ී ු ූ ෙ ො", "ක ග ච ජ ට ඩ ත ද න ප බ ම ය ර ල ව ස හ"),
    "thai": ("า ิ ี ุ ู อ", "ก ข ค ง จ ช ด ต ท น บ ป พ ม ย ร ล ว ส ห"),
    "burmese": ("ာ ိ ီ ု ူ", "က ခ ဂ င စ ဆ ဇ ည တ ထ ဒ န ပ ဖ ဗ မ ယ ရ လ ဝ သ ဟ"),
    "kana": ("", "か き く け こ さ し す せ そ た ち つ て と な に の は ひ ま も や ゆ よ ら り る れ ろ わ ん"),
    "hangul": ("", "가 나 다 라 마 바 사 아 자 하 기 니 리 미 시 이 지 고 노 도 로 소 오 구 누 두 루 무 우 한 국 말"),
    "hanzi": ("", "一 二 三 人 大 小 中 上 下 天 地 水 火 山 日 月 年 我 你 他 好 来 去 看 说 学 生 家 国 文 书 车"),
    "pinyin": ("a1 a2 a4 i1 i4 u3 u4 ao3 ai2 an1 ang4", "b d f g h l m n p sh t zh"),
    "ethiopic": ("", "ሀ ሁ ሂ ለ ሉ ሊ መ ሙ ሚ ረ ሩ ሪ ሰ ሱ ሲ ቀ ቁ በ ቡ ቢ ተ ቱ ነ ኑ ኒ አ ከ ኩ ወ ዘ የ ደ ዱ ገ ጉ ፈ ፉ"),
}  # fmt: skip
DEVANAGARI = ("ा ि ी ु ू े ै ो", "क ख ग घ च छ ज झ ट ठ ड ढ त थ द ध न प फ ब भ म य र ल व श स ह")
# Scripts of India lie in Unicode as Devanagari does, each in a block of its own.
BLOCKS = {"devanagari": 0x900, "bengali": 0x980, "gurmukhi": 0xA00, "gujarati": 0xA80, "oriya": 0xB00, "tamil": 0xB80,
          "telugu": 0xC00, "kannada": 0xC80, "malayalam": 0xD00}  # fmt: skip
SCRIPT_OF = {
    language: script
    for script, languages in {
        "cyrillic": "ba be bg cv kk ky mk nog ru ru-LV sr tt uk",
        "greek": "el grc",
        "hebrew": "he",
        "arabic": "ar fa sd ug ur",
        "georgian": "ka",
        "armenian": "hy hyw",
        "sinhala": "si",
        "thai": "th",
        "burmese": "my shn",
        "kana": "ja",
        "hangul": "ko",
        "hanzi": "yue",
        "pinyin": "cmn cmn-Latn-pinyin hak yue-Latn-jyutping",
        "ethiopic": "am",
        "devanagari": "hi mr ne kok",
        "bengali": "bn as bpy",
        "gurmukhi": "pa",
        "gujarati": "gu",
        "oriya": "or",
        "tamil": "ta",
        "telugu": "te",
        "kannada": "kn",
        "malayalam": "ml",
    }.items()
    for language in languages.split()
}
WORDS = {
    "en": "water house where morning people thing never little children through again world great quickly",
    "de": "Wasser Haus wohin Morgen Leute nichts klein Kinder durch wieder Welt schnell zwischen",
    "fr": "eau maison matin toujours enfant petite monde encore pourquoi bonjour vite entre",
    "es": "agua casa mañana siempre niño pequeño mundo otra porque gracias rápido entre",
    "it": "acqua casa mattina sempre bambino piccolo mondo ancora perché grazie veloce",
    "pt": "água casa manhã sempre criança pequeno mundo ainda obrigado rápido entre",
    "nl": "water huis morgen altijd kinderen klein wereld opnieuw waarom dank snel tussen",
    "sv": "vatten hus morgon alltid barn liten värld igen varför tack snabbt mellan",
    "da": "vand hus morgen altid børn lille verden igen hvorfor tak hurtig mellem",
    "pl": "woda dom rano zawsze dziecko mały świat znowu dlaczego dziękuję szybko",
    "cs": "voda dům ráno vždycky dítě malý svět znovu proč děkuji rychle",
    "ru": "вода дом утро всегда дети маленький мир снова почему спасибо быстро",
    "uk": "вода дім ранок завжди діти маленький світ знову чому дякую швидко",
    "el": "νερό σπίτι πρωί πάντα παιδί μικρό κόσμος ξανά γιατί ευχαριστώ",
    "tr": "su ev sabah çocuk küçük dünya tekrar neden teşekkürler hızlı",
    "fi": "vesi talo aamu aina lapsi pieni maailma taas miksi kiitos nopeasti",
    "hu": "víz ház reggel mindig gyerek kicsi világ megint miért köszönöm gyorsan",
    "ro": "apă casă dimineață mereu copil mic lume iarăși mulțumesc repede",
    "id": "air rumah pagi selalu anak kecil dunia lagi mengapa terima kasih cepat",
    "sw": "maji nyumba asubuhi daima mtoto ndogo dunia tena kwa nini asante haraka",
    "vi": "nước nhà sáng luôn trẻ nhỏ thế giới lại cảm ơn nhanh",
    "hi": "पानी घर सुबह हमेशा बच्चा छोटा दुनिया फिर क्यों धन्यवाद",
    "ar": "ماء بيت صباح دائما طفل صغير عالم لماذا شكرا سريع",
    "ja": "みず いえ あさ いつも こども ちいさい せかい また なぜ ありがとう",
    "ko": "물 집 아침 항상 아이 작은 세계 다시 고마워요 빨리",
    "la": "aqua domus mane semper puer parvus mundus iterum cur gratias",
}


def languages() -> list[str]:
    """List the languages that eSpeak NG has, by the names of their files, which `-v` takes."""
    lines = engines.call(["espeak-ng", "--voices"]).decode(errors="replace").splitlines()[1:]
    files = (line.split()[4] for line in lines if len(line.split()) > 4)
    return sorted({file for file in files if not file.startswith("mb/")})


def syllables(language: str) -> tuple[list[str], list[str]]:
    """Return vowels and consonants, or syllables in place of the second, of a language's script."""
    script = SCRIPT_OF.get(language, "")
    if script in BLOCKS:
        offset = BLOCKS[script] - BLOCKS["devanagari"]
        shifted = ([chr(ord(letter) + offset) for letter in letters.split()] for letters in DEVANAGARI)
        vowels, consonants = ([c for c in letters if unicodedata.category(c) != "Cn"] for letters in shifted)
    else:
        vowels, consonants = (letters.split() for letters in SCRIPTS.get(script, LATIN))
    return vowels or [""], consonants


def draw_word(rng: Generator, language: str) -> str:
    """Draw a word, a number, a letter or syllables."""
    kind, known = rng.random(), WORDS.get(language.split("-")[0])
    vowels, consonants = syllables(language)
    if kind < 0.2:
        return str(rng.integers(10 ** rng.integers(1, 5)))
    if kind < 0.3:
        return str(rng.choice(consonants))
    if kind < 0.6 and known:
        return str(rng.choice(known.split()))
    return "".join(str(rng.choice(consonants) + rng.choice(vowels)) for _ in range(rng.integers(1, 5)))


def draw_text(rng: Generator, language: str, count: int) -> str:
    """Draw a sentence, in which some words are followed by a comma."""
    words = [draw_word(rng, language) + ("," if rng.random() < 0.1 else "") for _ in range(count)]
    return " ".join(words).rstrip(",") + str(rng.choice((".", ".", "?", "!")))


def render(rngs: Sequence[Generator], known: Sequence[str]) -> list[Sound]:
    """Say a sentence for each generator in one of the languages `known`.

    Returns:
        Waves of 2 to 5 s at 16 kHz, names of language and variant, and no labels.
    """
    return [_say(rng, known, is_sentence=True) for rng in rngs]


def render_words(rngs: Sequence[Generator], known: Sequence[str]) -> list[Sound]:
    """Say a word, a number, a letter or syllables for each generator, as `render`, in a quarter of them in English.

    They last 0.1 to 2 s, with nothing around them; labels are the phonemes.
    """
    return [_say(rng, known, is_sentence=False) for rng in rngs]


def _say(rng: Generator, known: Sequence[str], *, is_sentence: bool) -> Sound:
    """Say sentences, each with more words, or words until one is long enough; what is too long is faded in 10 ms."""
    speed, pitch = int(rng.integers(110, 261)), int(rng.integers(100))
    before, after = (int(rng.uniform(0, 0.3 * is_sentence) * SAMPLE_RATE) for _ in range(2))
    count, (shortest, longest) = int(rng.integers(2, 9)), SECONDS if is_sentence else WORD_SECONDS
    longest = int(longest * SAMPLE_RATE) - before - after
    english = [language for language in known if language.rpartition("/")[2].startswith("en")] or known
    for number in range(MOST_DRAWS):
        if number % DRAWS_OF_A_VOICE == 0:  # some languages say nothing of numbers
            language = known[rng.integers(len(known))]
            if not is_sentence and rng.random() < ENGLISH_SHARE:
                language = english[rng.integers(len(english))]
            voice = f"{language}+{VARIANTS[rng.integers(len(VARIANTS))]}"
        name = language.rpartition("/")[2]
        text = draw_text(rng, name, count) if is_sentence else draw_word(rng, name)
        try:
            wave = engines.say(voice, text, speed, pitch)
        except engines.CrashError:  # as version 1.51 does at numbers in Greenlandic
            continue
        if len(wave) >= shortest * SAMPLE_RATE:
            break
        count += 2
    else:
        raise AapeError(f"espeak-ng -v {voice}: hardly a sound in {text!r}")
    if len(wave) > longest:
        wave = wave[:longest].copy()
        wave[-160:] *= np.linspace(1, 0, 160)
    labels = set() if is_sentence else phonemes(language, text)
    return Sound(np.pad(wave, (before, after)), f"espeak-ng/{voice}", labels)


def phonemes(language: str, text: str) -> set[str]:
    """Name the phonemes of a text by IPA, without length, stress and tone; the first and the last also as such."""
    spoken = engines.call(["espeak-ng", "-q", "--ipa", "--sep=_", "-v", language, text]).decode()
    spoken = re.sub(r"\(.*?\)|[ˈˌːˑ\d.]", "", spoken)  # languages in brackets
    found = [name for name in re.split(r"[_\s]+", spoken) if name]
    return {*found, f"{found[0]}-", f"-{found[-1]}"} if found else set()
