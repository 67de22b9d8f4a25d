//! The vocabulary of the generated records.

/// Given names, and how they are written in an email address.
pub(super) const FIRST_NAMES: &[(&str, &str)] = &[
    ("Aisha", "aisha"),
    ("Amélie", "amelie"),
    ("Andrei", "andrei"),
    ("Ángel", "angel"),
    ("Beatriz", "beatriz"),
    ("Caroline", "caroline"),
    ("Chidi", "chidi"),
    ("Daniel", "daniel"),
    ("Elif", "elif"),
    ("Emma", "emma"),
    ("François", "francois"),
    ("Grace", "grace"),
    ("Haruto", "haruto"),
    ("Ines", "ines"),
    ("James", "james"),
    ("Jürgen", "juergen"),
    ("Katarzyna", "katarzyna"),
    ("Liam", "liam"),
    ("Łukasz", "lukasz"),
    ("Mateo", "mateo"),
    ("Mei", "mei"),
    ("Noah", "noah"),
    ("Olivia", "olivia"),
    ("Priya", "priya"),
    ("Rafael", "rafael"),
    ("Sofia", "sofia"),
    ("Søren", "soren"),
    ("Thomas", "thomas"),
    ("Yusuf", "yusuf"),
    ("Zoë", "zoe"),
    ("美咲", "misaki"),
    ("Анна", "anna"),
];

/// Family names, and how they are written in an email address.
pub(super) const LAST_NAMES: &[(&str, &str)] = &[
    ("Andersson", "andersson"),
    ("Brown", "brown"),
    ("Çelik", "celik"),
    ("Chen", "chen"),
    ("Costa", "costa"),
    ("Dubois", "dubois"),
    ("Fernández", "fernandez"),
    ("Garcia", "garcia"),
    ("Haddad", "haddad"),
    ("Ivanova", "ivanova"),
    ("Jensen", "jensen"),
    ("Kowalski", "kowalski"),
    ("Krüger", "krueger"),
    ("Larsen", "larsen"),
    ("Lindqvist", "lindqvist"),
    ("Martin", "martin"),
    ("Miller", "miller"),
    ("Nguyễn", "nguyen"),
    ("O'Brien", "obrien"),
    ("Okafor", "okafor"),
    ("Patel", "patel"),
    ("Popescu", "popescu"),
    ("Rossi", "rossi"),
    ("Sato", "sato"),
    ("Schmidt", "schmidt"),
    ("Silva", "silva"),
    ("Smith", "smith"),
    ("Tanaka", "tanaka"),
    ("van Dijk", "vandijk"),
    ("Williams", "williams"),
    ("Yılmaz", "yilmaz"),
    ("Zieliński", "zielinski"),
];

/// First halves of companies' names.
pub(super) const COMPANY_HEADS: &[&str] = &[
    "Amber", "Anchor", "Beacon", "Birch", "Bright", "Cedar", "Clear", "Copper", "Ever", "Fern", "Gold", "Granite",
    "Green", "Harbor", "High", "Juniper", "Lake", "Maple", "Meridian", "North", "Oak", "Quartz", "River", "Silver",
    "Stone", "Summit", "Sun", "Swift", "Timber", "Vale", "West", "Willow",
];

/// Second halves of companies' names.
pub(super) const COMPANY_TAILS: &[&str] = &[
    "bridge", "crest", "field", "ford", "forge", "gate", "light", "mark", "path", "point", "port", "ridge", "sky",
    "stack", "water", "works",
];

/// What follows in a company's name, and how it is written in its domain.
pub(super) const COMPANY_KINDS: &[(&str, &str)] = &[
    ("Labs", "-labs.io"),
    ("GmbH", ".de"),
    ("Inc.", ".com"),
    ("Logistics", "-logistics.com"),
    ("& Partners", "partners.com"),
    ("Studio", ".studio"),
    ("Health", "health.org"),
    ("Software", ".dev"),
];

/// Cities, their countries and the prefixes of their telephone numbers.
pub(super) const PLACES: &[(&str, &str, &str)] = &[
    ("Amsterdam", "Netherlands", "+31 20"),
    ("Austin", "United States", "+1 512"),
    ("Berlin", "Germany", "+49 30"),
    ("Chicago", "United States", "+1 312"),
    ("Dublin", "Ireland", "+353 1"),
    ("Lagos", "Nigeria", "+234 1"),
    ("London", "United Kingdom", "+44 20"),
    ("Madrid", "Spain", "+34 91"),
    ("New York", "United States", "+1 212"),
    ("Paris", "France", "+33 1"),
    ("San Francisco", "United States", "+1 415"),
    ("São Paulo", "Brazil", "+55 11"),
    ("Singapore", "Singapore", "+65"),
    ("Toronto", "Canada", "+1 416"),
    ("Warsaw", "Poland", "+48 22"),
    ("Zürich", "Switzerland", "+41 44"),
];

/// What people do.
pub(super) const JOB_TITLES: &[&str] = &[
    "Account Executive",
    "CEO",
    "CFO",
    "CTO",
    "Customer Success Manager",
    "Data Engineer",
    "Director of Operations",
    "Founder",
    "Head of Growth",
    "Head of Procurement",
    "IT Manager",
    "Marketing Manager",
    "Office Manager",
    "Product Manager",
    "Sales Representative",
    "Software Engineer",
    "VP of Engineering",
    "VP of Sales",
];

/// What companies do.
pub(super) const INDUSTRIES: &[&str] = &[
    "ACCOUNTING",
    "AUTOMOTIVE",
    "BANKING",
    "BIOTECHNOLOGY",
    "COMPUTER_SOFTWARE",
    "CONSTRUCTION",
    "EDUCATION_MANAGEMENT",
    "FOOD_PRODUCTION",
    "HOSPITAL_HEALTH_CARE",
    "INFORMATION_TECHNOLOGY_AND_SERVICES",
    "INSURANCE",
    "LOGISTICS_AND_SUPPLY_CHAIN",
    "MARKETING_AND_ADVERTISING",
    "REAL_ESTATE",
    "RENEWABLES_ENVIRONMENT",
    "RETAIL",
];

/// What a deal is about.
pub(super) const DEAL_SUBJECTS: &[&str] = &[
    "annual renewal",
    "data migration",
    "enterprise plan",
    "expansion",
    "new business",
    "onboarding package",
    "pilot project",
    "support contract",
];

/// How close a contact or company is to being a customer, in the order in which they move on.
pub(super) const LIFECYCLE_STAGES: &[&str] =
    &["subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity", "customer"];

/// How far a deal is, in the order in which it moves on, but for its end.
pub(super) const OPEN_DEAL_STAGES: &[&str] =
    &["appointmentscheduled", "qualifiedtobuy", "presentationscheduled", "decisionmakerboughtin", "contractsent"];

/// The names that the publisher has for its syncs.
pub(super) const SYNC_NAMES: &[&str] = &[
    "acme",
    "bluebird",
    "contoso",
    "dunder",
    "fabrikam",
    "globex",
    "hooli",
    "initech",
    "northwind",
    "soylent",
    "umbra",
    "vandelay",
];

/// What the publisher's customers pay for.
pub(super) const PLANS: &[&str] = &["free", "starter", "pro", "enterprise"];
