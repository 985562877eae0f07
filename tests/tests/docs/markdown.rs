//! As much of Markdown as the documentation uses: fenced blocks, headings and links.

/// A piece of a file, and the line that it begins at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) line: usize,
    pub(crate) what: T,
}

/// What a line of a file is.
enum Kind<'a> {
    /// A line of a fenced block in this language.
    Fenced(&'a str),
    /// A line that opens or closes a block.
    Fence,
    Prose,
}

/// Every line with its number, from 1, and what it is.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, Kind<'_>)> {
    let mut language = None;
    text.lines().enumerate().map(move |(index, line)| {
        let kind = match (line.trim_start().strip_prefix("```"), language) {
            (Some(_), Some(_)) => {
                language = None;
                Kind::Fence
            }
            (Some(word), None) => {
                language = Some(word.trim());
                Kind::Fence
            }
            (None, Some(language)) => Kind::Fenced(language),
            (None, None) => Kind::Prose,
        };
        (index + 1, line, kind)
    })
}

/// The YAML documents of all fenced blocks that say they are YAML.
pub(crate) fn yaml_documents(text: &str) -> Vec<At<String>> {
    let mut documents = Vec::new();
    let mut open: Option<At<String>> = None;
    for (line, content, kind) in lines(text) {
        let yaml = matches!(kind, Kind::Fenced("yaml"));
        if !yaml || content.trim_end() == "---" {
            documents.extend(open.take());
            continue;
        }
        let document = open.get_or_insert_with(|| At {
            line,
            what: String::new(),
        });
        document.what.push_str(content);
        document.what.push('\n');
    }
    documents.extend(open);
    documents
}

/// Where the links of a file lead, as written.
pub(crate) fn links(text: &str) -> Vec<At<&str>> {
    let mut links = Vec::new();
    for (line, content, kind) in lines(text) {
        if !matches!(kind, Kind::Prose) || content.starts_with("    ") {
            continue;
        }
        for part in content.split("](").skip(1) {
            if let Some((what, _)) = part.split_once(')') {
                links.push(At { line, what });
            }
        }
    }
    links
}

/// The anchors that GitHub gives the headings of a file.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, content, kind) in lines(text) {
        let title = content.trim_start_matches('#');
        if !matches!(kind, Kind::Prose) || title == content || !title.starts_with(' ') {
            continue;
        }
        let anchor = anchor(title.trim());
        let earlier = anchors.iter().filter(|known| **known == anchor).count();
        anchors.push(match earlier {
            0 => anchor,
            more => format!("{anchor}-{more}"),
        });
    }
    anchors
}

fn anchor(title: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let lower = title.to_lowercase();
    lower.chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn blocks_are_split_into_documents_that_know_their_lines() {
    let text = "a\n```yaml\nkind: A\n---\nkind: B\n```\n```text\nkind: C\n```\n";
    let at = |line, what: &str| At {
        line,
        what: what.to_owned(),
    };
    assert_eq!(yaml_documents(text), [at(3, "kind: A\n"), at(5, "kind: B\n")]);
}

#[test]
fn links_and_anchors_are_those_of_prose() {
    let text =
        "# What it's: a `b`\n[x](a.md#b) ![y](c.svg)\n```text\n# no\n[z](no)\n```\n# What it's: a `b`\n";
    assert_eq!(
        links(text),
        [
            At {
                line: 2,
                what: "a.md#b"
            },
            At {
                line: 2,
                what: "c.svg"
            }
        ]
    );
    assert_eq!(anchors(text), ["what-its-a-b", "what-its-a-b-1"]);
}
