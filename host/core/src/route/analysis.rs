//! What can be said about an expression before it runs: its kind, its mistakes, and which parts of `data` it looks at.

use std::collections::HashSet;
use std::ops::Range;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, SourceInfo, operators,
};

use super::body::Want;
use super::facts::VARIABLES;
use super::regular::Regular;
use super::tree::{is_variable, literal_kind, path_of};
use super::types::{self, Kind};
use crate::config::nearest;

/// How deep comprehensions (`map`, `filter`, `all`, ...) may stand in one another: beyond that they take too long.
pub const COMPREHENSIONS_NESTED_MAX: usize = 2;

/// How many comprehensions may work on each other's results (`list.filter(..).map(..)` are two): each can multiply what the
/// one before it made.
pub const COMPREHENSIONS_CHAINED_MAX: usize = 4;

/// A mistake in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The bytes of the expression that it is about.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// What was found out about an expression.
#[derive(Debug)]
pub(crate) struct Findings {
    /// What it evaluates to.
    pub(crate) kind: Kind,
    /// The elements of the list that it is, if it is one in so many words.
    pub(crate) elements: Vec<(Range<usize>, Kind)>,
    /// What it reads of `data`; none: nothing at all.
    pub(crate) want: Option<Want>,
    /// Everything that is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

/// Looks through `expression`, whose nodes stand in its source as `info` says.
pub(crate) fn analyse(expression: &IdedExpr, info: &SourceInfo) -> Findings {
    let mut walk = Walk { info, scope: Vec::new(), nested: 0, chained: 0, want: None, problems: Vec::new() };
    let (kind, elements) = match &expression.expr {
        Expr::List(list) => {
            let elements = list.elements.iter().map(|element| (walk.at(element), walk.kind(element))).collect();
            (Kind::List, elements)
        }
        _ => (walk.kind(expression), Vec::new()),
    };
    Findings { kind, elements, want: walk.want, problems: walk.problems }
}

/// The source of the token that stands for the node `id`.
pub(crate) fn span(info: &SourceInfo, id: u64) -> Range<usize> {
    let source = &info.source;
    // The parser counts characters; its end is inclusive.
    let (start, end) = info.offset_for(id).unwrap_or((0, 0));
    let byte = |at: u32| source.char_indices().nth(at as usize).map_or(source.len(), |(byte, _)| byte);
    byte(start)..byte(end.saturating_add(1)).max(byte(start))
}

struct Walk<'e> {
    info: &'e SourceInfo,
    /// The variables of the comprehensions around, innermost last.
    scope: Vec<(&'e str, Kind)>,
    nested: usize,
    chained: usize,
    want: Option<Want>,
    problems: Vec<Problem>,
}

impl<'e> Walk<'e> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> Kind {
        self.problems.push(Problem { span, message: message.into(), help });
        Kind::Any
    }

    fn at(&self, node: &IdedExpr) -> Range<usize> {
        span(self.info, node.id)
    }

    fn kind(&mut self, node: &'e IdedExpr) -> Kind {
        if let Some(path) = path_of(node).filter(|path| path.root == "data" && !self.is_bound("data")) {
            self.want.get_or_insert_default().add(&path.fields);
            return path.kind();
        }
        match &node.expr {
            Expr::Literal(literal) => literal_kind(literal),
            Expr::Ident(name) => self.name(node, name),
            Expr::Select(select) => {
                let operand = self.kind(&select.operand);
                self.select(node, operand, &select.field, select.test, is_variable(&select.operand, "extensions"))
            }
            Expr::Call(call) => self.call(node, call),
            Expr::Comprehension(comprehension) => self.comprehension(node, comprehension),
            Expr::List(list) => {
                for element in &list.elements {
                    self.kind(element);
                }
                Kind::List
            }
            Expr::Map(map) => self.map(map),
            Expr::Struct(message) => {
                let help = "write a map: {\"field\": value}";
                self.problem(
                    self.at(node),
                    format!("there is no message type '{}'", message.type_name),
                    Some(help.into()),
                )
            }
            Expr::Unspecified => self.problem(self.at(node), "this part of the expression is incomplete", None),
        }
    }

    fn is_bound(&self, name: &str) -> bool {
        self.scope.iter().any(|(bound, _)| *bound == name)
    }

    fn name(&mut self, node: &IdedExpr, name: &'e str) -> Kind {
        const TYPES: [&str; 9] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];
        if let Some((_, kind)) = self.scope.iter().rev().find(|(bound, _)| *bound == name) {
            return *kind;
        }
        match name {
            "extensions" => return Kind::Map,
            _ if VARIABLES.contains(&name) => return Kind::Text,
            _ if TYPES.contains(&name) => return Kind::Type,
            _ => {}
        }
        let bound = self.scope.iter().map(|(bound, _)| *bound).filter(|bound| !bound.starts_with('@'));
        let known: Vec<&str> = bound.chain(VARIABLES).collect();
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("there are {}; text stands in quotes: \"{name}\"", known.join(", ")),
        };
        self.problem(self.at(node), format!("unknown name '{name}'"), Some(help))
    }

    fn select(&mut self, node: &IdedExpr, operand: Kind, field: &str, test: bool, of_extensions: bool) -> Kind {
        match operand {
            Kind::Any | Kind::Map if test => Kind::Bool,
            Kind::Map if of_extensions => Kind::Text,
            Kind::Any | Kind::Map => Kind::Any,
            Kind::Optional => {
                if test {
                    Kind::Bool
                } else {
                    Kind::Optional
                }
            }
            other => {
                let help = "only maps have fields; the body of the message is 'data'".to_owned();
                self.problem(self.at(node), format!("{other} has no field '{field}'"), Some(help))
            }
        }
    }

    fn map(&mut self, map: &'e MapExpr) -> Kind {
        let mut keys = HashSet::new();
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let kind = self.kind(&entry.key);
            if !matches!(kind, Kind::Any | Kind::Text | Kind::Int | Kind::Uint | Kind::Bool) {
                self.problem(
                    self.at(&entry.key),
                    format!("{kind} can't be the key of a map"),
                    Some("keys are strings".into()),
                );
            }
            if let Expr::Literal(LiteralValue::String(key)) = &entry.key.expr
                && !keys.insert(key.inner())
            {
                self.problem(
                    self.at(&entry.key),
                    format!("the key \"{}\" stands twice in this map", key.inner()),
                    None,
                );
            }
            self.kind(&entry.value);
        }
        Kind::Map
    }

    fn call(&mut self, node: &'e IdedExpr, call: &'e CallExpr) -> Kind {
        let arguments = &call.args;
        match (call.func_name.as_str(), arguments.as_slice()) {
            (operators::CONDITIONAL, [condition, one, other]) => {
                self.expect_bool(condition, "the condition before '?'");
                let one = self.kind(one);
                one.either(self.kind(other))
            }
            (operators::LOGICAL_AND, [left, right]) => self.expect_bools(&[left, right], "'&&'"),
            (operators::LOGICAL_OR, [left, right]) => self.expect_bools(&[left, right], "'||'"),
            (operators::LOGICAL_NOT, [operand]) => self.expect_bools(&[operand], "'!'"),
            (operators::NOT_STRICTLY_FALSE, [operand]) => self.expect_bools(&[operand], "the condition"),
            (operators::NEGATE, [operand]) => match self.kind(operand) {
                kind @ (Kind::Any | Kind::Int | Kind::Double | Kind::Duration) => kind,
                other => self.problem(self.at(node), format!("'-' can't be applied to {other}"), None),
            },
            (operators::INDEX | operators::OPT_INDEX, [target, index]) => self.index(node, call, target, index),
            (operators::OPT_SELECT, [operand, field]) => {
                self.kind(operand);
                self.kind(field);
                Kind::Optional
            }
            (name, [left, right]) if types::symbol(name).is_some() => {
                let symbol = types::symbol(name).unwrap_or_default();
                let (left, right) = (self.kind(left), self.kind(right));
                types::operate(symbol, left, right).unwrap_or_else(|| {
                    let (message, help) = explain_operator(symbol, left, right);
                    self.problem(self.at(node), message, help)
                })
            }
            _ => self.function(node, call),
        }
    }

    fn index(&mut self, node: &'e IdedExpr, call: &'e CallExpr, target: &'e IdedExpr, index: &'e IdedExpr) -> Kind {
        let (kind, by) = (self.kind(target), self.kind(index));
        let fits = match kind {
            Kind::Any | Kind::Optional => true,
            Kind::Map => matches!(by, Kind::Any | Kind::Text | Kind::Int | Kind::Uint | Kind::Double | Kind::Bool),
            Kind::List => matches!(by, Kind::Any | Kind::Int | Kind::Uint | Kind::Double),
            _ => false,
        };
        if !fits {
            return self.problem(self.at(node), format!("{kind} can't be indexed with {by}"), None);
        }
        if call.func_name == operators::OPT_INDEX || kind == Kind::Optional {
            Kind::Optional
        } else if is_variable(target, "extensions") {
            Kind::Text
        } else {
            Kind::Any
        }
    }

    fn expect_bool(&mut self, node: &'e IdedExpr, whose: &str) {
        let kind = self.kind(node);
        if !kind.can_be(Kind::Bool) {
            self.problem(self.at(node), format!("{whose} takes bools, and this is {kind}"), None);
        }
    }

    fn expect_bools(&mut self, nodes: &[&'e IdedExpr], whose: &str) -> Kind {
        for node in nodes {
            self.expect_bool(node, whose);
        }
        Kind::Bool
    }

    fn function(&mut self, node: &'e IdedExpr, call: &'e CallExpr) -> Kind {
        let name = call.func_name.as_str();
        let namespaced =
            call.target.as_deref().is_some_and(|target| is_variable(target, "optional")) && !self.is_bound("optional");
        let (full_name, receiver) = match call.target.as_deref() {
            Some(_) if namespaced => (format!("optional.{name}"), None),
            Some(target) => (name.to_owned(), Some((self.kind(target), target))),
            None => (name.to_owned(), None),
        };
        let Some(function) = types::find(&full_name, receiver.is_some()) else {
            // The arguments of an unknown function may be no expressions at all; a macro's variable, say.
            return self.unknown_function(node, &full_name, receiver.is_some());
        };
        if types::is_macro(function) {
            let message = format!("{name}() is not called like that");
            return self.problem(self.at_function(node, name), message, Some(format!("write {}", function.usage)));
        }
        let given: Vec<Kind> = call.args.iter().map(|argument| self.kind(argument)).collect();
        if let Some((kind, _)) = receiver
            && !function.takes_receiver(kind)
        {
            let help = format!("write {}", function.usage);
            return self.problem(self.at_function(node, name), format!("{kind} has no function {name}()"), Some(help));
        }
        if !function.takes(&given) {
            let given = given.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = match given.as_str() {
                "" => format!("{name}() needs an argument"),
                given => format!("{name}() can't be called with {given}"),
            };
            return self.problem(self.at_function(node, name), message, Some(format!("write {}", function.usage)));
        }
        if name == "matches" {
            self.regular_expression(call);
        }
        function.result
    }

    /// Patterns are checked here and not read from messages: compiling a hostile one is slow, and one with a mistake would
    /// fail every message.
    fn regular_expression(&mut self, call: &'e CallExpr) {
        let Some(last) = call.args.last() else { return };
        let Expr::Literal(LiteralValue::String(pattern)) = &last.expr else {
            let help = "write the regular expression itself, in quotes".to_owned();
            self.problem(self.at(last), "matches() takes a pattern that is known beforehand", Some(help));
            return;
        };
        if let Err(reason) = Regular::new(pattern.inner()) {
            self.problem(self.at(last), "this is not a regular expression", Some(reason));
        }
    }

    fn unknown_function(&mut self, node: &IdedExpr, name: &str, on_value: bool) -> Kind {
        let dot = if on_value { "." } else { "" };
        let help = if types::LEFT_OUT.contains(&name) {
            Some("it could make far too long texts; do this in a component".to_owned())
        } else if types::find(name, !on_value).is_some() {
            types::find(name, !on_value).map(|function| format!("write {}", function.usage))
        } else {
            let near = nearest(name, types::names(on_value));
            let near = near.or_else(|| types::names(on_value).find(|known| known.starts_with(name)));
            near.map(|near| format!("did you mean {dot}{near}()?"))
        };
        let help = help.unwrap_or_else(|| {
            let known: Vec<_> = types::names(on_value).collect();
            format!("there are {}", known.join(", "))
        });
        self.problem(self.at_function(node, name), format!("unknown function {dot}{name}()"), Some(help))
    }

    /// The name of the function that is called at `node`, whose own place is the bracket.
    fn at_function(&self, node: &IdedExpr, name: &str) -> Range<usize> {
        let bracket = self.at(node);
        let before = self.info.source[..bracket.start].trim_end();
        let short = name.rsplit('.').next().unwrap_or(name);
        if before.ends_with(short) { before.len() - short.len()..before.len() } else { bracket }
    }

    fn comprehension(&mut self, node: &'e IdedExpr, comprehension: &'e ComprehensionExpr) -> Kind {
        self.chained += 1;
        if self.chained == COMPREHENSIONS_CHAINED_MAX + 1 {
            let message =
                format!("more than {COMPREHENSIONS_CHAINED_MAX} comprehensions can't work on each other's results");
            self.problem(self.at(node), message, Some("do this in a component".into()));
        }
        let over = self.kind(&comprehension.iter_range);
        self.chained -= 1;
        if !matches!(over, Kind::Any | Kind::List | Kind::Map) {
            let help = Some("comprehensions go over lists, and over the keys of maps".to_owned());
            self.problem(self.at(&comprehension.iter_range), format!("{over} has no elements to go over"), help);
        }
        self.nested += 1;
        if self.nested == COMPREHENSIONS_NESTED_MAX + 1 {
            let message = format!("comprehensions can't be nested more than {COMPREHENSIONS_NESTED_MAX} deep");
            self.problem(self.at(node), message, Some("do this in a component".into()));
        }
        let result = self.kind(&comprehension.accu_init);
        let outside = self.scope.len();
        self.scope.push((&comprehension.accu_var, result));
        self.scope.push((&comprehension.iter_var, Kind::Any));
        self.kind(&comprehension.loop_cond);
        self.kind(&comprehension.loop_step);
        self.scope.truncate(outside + 1);
        let kind = self.kind(&comprehension.result);
        self.scope.truncate(outside);
        self.nested -= 1;
        kind
    }
}

fn explain_operator(symbol: &str, left: Kind, right: Kind) -> (String, Option<String>) {
    let numbers = [Kind::Int, Kind::Uint, Kind::Double];
    let help = match symbol {
        "==" | "!=" => return (format!("{left} is never equal to {right}"), None),
        "in" => Some("'in' looks into lists, and among the keys of maps".to_owned()),
        _ if numbers.contains(&left) && numbers.contains(&right) => {
            Some("convert one of them: int(x), uint(x) or double(x)".to_owned())
        }
        "+" if left == Kind::Text || right == Kind::Text => Some("convert the other one: string(x)".to_owned()),
        _ => None,
    };
    (format!("'{symbol}' can't be applied to {left} and {right}"), help)
}
