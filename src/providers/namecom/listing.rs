//! Everything that the body of an answer says about single items, in any form.
//!
//! This finds what must not be overlooked, and evidence; it decides no refund. [`super::rows`]
//! reads strictly. If that finds nothing or a refusal, a status found here turns the result into a
//! doubt.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::domain::money::parse_minor_units;

/// All rows and totals in a body.
#[derive(Debug, Default)]
pub(super) struct Listing {
    rows: Vec<ItemRow>,
    /// `totalRefundAmount`, if it is not zero.
    total: Option<String>,
    /// The body is not JSON, but contains the name of the member that every row has.
    has_damaged_rows: bool,
}

/// Anything that reports on one item.
#[derive(Debug, Default)]
struct ItemRow {
    item: Option<String>,
    statuses: Vec<String>,
    amount: Option<String>,
}

/// A JSON value with all members of its objects, repeated names included.
enum JsonNode {
    /// `null`, `false`, or an empty text, list or object.
    Empty,
    Scalar(String),
    List(Vec<JsonNode>),
    Object(Vec<(String, JsonNode)>),
}

/// The statuses of an item that was refunded, or whose refund is on its way.
const MOVED_STATUSES: [&str; 2] = ["refunded", "initialized"];

impl Listing {
    /// Reads a body. A body that is not JSON lists nothing, unless it contains the name of an
    /// item's status.
    pub(super) fn of(body: &str) -> Listing {
        let mut listing = Listing::default();
        match serde_json::from_str::<JsonNode>(body) {
            Ok(node) => listing.collect(&node, false),
            Err(_) => listing.has_damaged_rows = body.to_ascii_lowercase().contains("orderitemstatus"),
        }
        // Refunded items first, because evidence is cut at its bound.
        listing.rows.sort_by_key(|row| !row.has_moved());
        listing
    }

    /// The body says nothing about an item or an amount.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.total.is_none() && !self.has_damaged_rows
    }

    /// Some row says that its item is refunded or will be.
    pub(super) fn has_moved(&self) -> bool {
        self.rows.iter().any(ItemRow::has_moved)
    }

    fn collect(&mut self, node: &JsonNode, in_results: bool) {
        match node {
            JsonNode::Empty => {}
            JsonNode::Scalar(text) if in_results => {
                self.rows.push(ItemRow { statuses: vec![text.clone()], ..ItemRow::default() });
            }
            JsonNode::Scalar(_) => {}
            JsonNode::List(nodes) => nodes.iter().for_each(|node| self.collect(node, in_results)),
            JsonNode::Object(members) => {
                if in_results || members.iter().any(|(name, _)| normalized(name) == "orderitemstatus") {
                    self.rows.push(ItemRow::of(members));
                }
                for (name, value) in members {
                    let name = normalized(name);
                    if name == "totalrefundamount" {
                        self.total = self.total.take().or_else(|| value.amount());
                    }
                    self.collect(value, name == "results");
                }
            }
        }
    }
}

/// `item 71 "refunded" 10.99, item 72 "failed"; totalRefundAmount 10.99`
impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.rows.iter().map(ItemRow::to_string).collect();
        parts.extend(self.total.as_ref().map(|total| format!("totalRefundAmount {total}")));
        if self.has_damaged_rows {
            parts.push("a body that is not JSON and contains orderItemStatus".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

impl ItemRow {
    fn of(members: &[(String, JsonNode)]) -> ItemRow {
        let mut row = ItemRow::default();
        for (name, value) in members {
            match normalized(name).as_str() {
                "orderitemid" | "itemid" | "id" => row.item = value.scalar().or(row.item),
                "refundamount" => row.amount = value.scalar().or(row.amount),
                "orderitemstatus" | "itemstatus" | "status" => row.statuses.extend(value.scalar()),
                _ => {}
            }
        }
        row
    }

    fn has_moved(&self) -> bool {
        self.statuses.iter().any(|status| MOVED_STATUSES.iter().any(|moved| status.trim().eq_ignore_ascii_case(moved)))
    }
}

impl fmt::Display for ItemRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {}", self.item.as_deref().unwrap_or("without a number"))?;
        for status in &self.statuses {
            // Quoted, because a blank or the case may be the only irregularity.
            write!(f, " \"{status}\"")?;
        }
        if self.statuses.is_empty() {
            f.write_str(" without a status")?;
        }
        self.amount.iter().try_for_each(|amount| write!(f, " {amount}"))
    }
}

impl JsonNode {
    fn scalar(&self) -> Option<String> {
        match self {
            JsonNode::Scalar(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// None if it is empty or zero.
    fn amount(&self) -> Option<String> {
        self.scalar().filter(|text| parse_minor_units(text) != Ok(0))
    }
}

/// A member's name without differences of style.
fn normalized(name: &str) -> String {
    name.chars().filter(|character| !matches!(character, '_' | '-' | ' ')).collect::<String>().to_ascii_lowercase()
}

impl<'de> Deserialize<'de> for JsonNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = JsonNode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }

            fn visit_unit<E>(self) -> Result<JsonNode, E> {
                Ok(JsonNode::Empty)
            }

            fn visit_bool<E>(self, value: bool) -> Result<JsonNode, E> {
                Ok(if value { JsonNode::Scalar("true".to_owned()) } else { JsonNode::Empty })
            }

            fn visit_i64<E>(self, value: i64) -> Result<JsonNode, E> {
                Ok(JsonNode::Scalar(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<JsonNode, E> {
                Ok(JsonNode::Scalar(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<JsonNode, E> {
                Ok(JsonNode::Scalar(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<JsonNode, E> {
                Ok(if value.is_empty() { JsonNode::Empty } else { JsonNode::Scalar(value.to_owned()) })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<JsonNode, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(if nodes.is_empty() { JsonNode::Empty } else { JsonNode::List(nodes) })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonNode, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(if members.is_empty() { JsonNode::Empty } else { JsonNode::Object(members) })
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::documented(
        r#"{"results":[{"orderItemId":2,"orderItemStatus":"failed","refundAmount":0},{"orderItemId":1,"orderItemStatus":"refunded","refundAmount":10.99}],"totalRefundAmount":10.99}"#,
        "item 1 \"refunded\" 10.99, item 2 \"failed\" 0, totalRefundAmount 10.99",
        true
    )]
    #[case::wrapped(
        r#"{"data":{"results":[{"orderItemId":1,"orderItemStatus":"initialized"}]}}"#,
        "item 1 \"initialized\"",
        true
    )]
    #[case::one_for_a_list(
        r#"{"results":{"orderItemId":1,"orderItemStatus":"refunded"}}"#,
        "item 1 \"refunded\"",
        true
    )]
    #[case::no_results_around(
        r#"[{"order_item_id":"1","order_item_status":"REFUNDED "}]"#,
        "item 1 \"REFUNDED \"",
        true
    )]
    #[case::status_alone(r#"{"results":[{"id":1,"status":"refunded"}]}"#, "item 1 \"refunded\"", true)]
    #[case::value_twice(
        r#"{"results":[{"orderItemId":1,"orderItemStatus":"refunded","orderItemStatus":"failed"}]}"#,
        "item 1 \"refunded\" \"failed\"",
        true
    )]
    #[case::results_twice(
        r#"{"results":[{"orderItemId":1,"orderItemStatus":"refunded"}],"results":[]}"#,
        "item 1 \"refunded\"",
        true
    )]
    #[case::escaped(
        "{\"r\\u0065sults\":[{\"orderItemStatus\":\"re\\u0066unded\"}]}",
        "item without a number \"refunded\"",
        true
    )]
    #[case::values_for_rows(r#"{"results":["refunded"]}"#, "item without a number \"refunded\"", true)]
    #[case::no_value(r#"{"results":[{"orderItemId":1}]}"#, "item 1 without a status", false)]
    #[case::total_alone(
        r#"{"message":"Conflict","results":[],"totalRefundAmount":"10.99"}"#,
        "totalRefundAmount 10.99",
        false
    )]
    #[case::cut_off(
        r#"{"results":[{"orderItemId":1,"orderItemStatus":"ref"#,
        "a body that is not JSON and contains orderItemStatus",
        false
    )]
    #[case::default_values(
        r#"{"message":"Bad Request","details":null,"results":null,"totalRefundAmount":0}"#,
        "",
        false
    )]
    #[case::more_default_values(r#"{"results":[],"totalRefundAmount":"0.00"}"#, "", false)]
    #[case::an_error(r#"{"message":"Not Found","details":"Order item 1 is refunded.","status":"refunded"}"#, "", false)]
    #[case::html("<html>refunded</html>", "", false)]
    #[case::nothing("", "", false)]
    fn rows_are_found_in_every_form(#[case] body: &str, #[case] expected: &str, #[case] moved: bool) {
        let listing = Listing::of(body);
        assert_eq!((listing.to_string().as_str(), listing.has_moved()), (expected, moved));
        assert_eq!(listing.is_empty(), expected.is_empty());
    }

    #[test]
    fn the_nesting_depth_is_bounded() {
        let deep = format!("{}{{\"orderItemStatus\":1}}{}", "[".repeat(30_000), "]".repeat(30_000));
        assert!(Listing::of(&deep).has_damaged_rows);
    }
}
