//! The matrix for people.

use super::{CLIENTS, Cell, Matrix, TARGETS};

/// One row for each client, one column for each target. `colour`: open paths in green, closed ones in red.
pub fn render(matrix: &Matrix, colour: bool) -> String {
    let width = CLIENTS.iter().map(|client| client.title.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}", "from \\ to");
    let width = width.max("from \\ to".len());
    for target in TARGETS {
        text.push_str(&format!("  {}", target.title()));
    }
    for client in CLIENTS {
        text.push_str(&format!("\n{:width$}", client.title));
        for target in TARGETS {
            let (word, code) = match matrix.get(&(client, target)) {
                Some(Cell::Open) => ("open", "32"),
                Some(Cell::Closed) => ("closed", "31"),
                Some(Cell::Mixed { .. }) => ("MIXED", "33"),
                None => ("-", "2"),
            };
            let padded = format!("{word:>width$}", width = target.title().len());
            match colour {
                true => text.push_str(&format!("  \x1b[{code}m{padded}\x1b[0m")),
                false => text.push_str(&format!("  {padded}")),
            }
        }
    }
    text.push('\n');
    text
}
