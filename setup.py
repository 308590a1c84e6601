"Builds the package from `settings.ini`: name, version, requirements and the rest stand there and only there."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("lab", "dev", "docs")}
statuses = ["1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta",
            "5 - Production/Stable", "6 - Mature", "7 - Inactive"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=[word.strip() for word in cfg["keywords"].split(",")],
    author=cfg["author"],
    license=cfg["license"],
    license_files=["LICENSE"],
    classifiers=[f"Development Status :: {statuses[int(cfg['status']) - 1]}",
                 "Intended Audience :: Education", "Programming Language :: Python :: 3"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["course_lib", "course_lib.*"]),
    package_data={"course_lib": ["*.json", "*.js", "*.css", "*.mplstyle"]},
    install_requires=cfg["requirements"].split(),
    extras_require={**extras, "all": sorted({r for rs in extras.values() for r in rs})},
    zip_safe=False,
)
